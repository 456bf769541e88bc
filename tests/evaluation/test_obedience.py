"""Rules are metrics of tasks that the suite scores, each set with means of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.obedience import evaluate_obedience, make_rule_tasks
from text_to_lora.evaluation.rules import RULES, SENTENCES, WORD_RULES, Rule, find_rule
from text_to_lora.evaluation.samples import read_samples, sample_path
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Metric


def by_name(*names: str) -> list[Rule]:
    return [find_rule(name) for name in names]


def test_each_rule_is_a_task_over_all_sentences() -> None:
    tasks = make_rule_tasks(RULES)
    assert [task.definition for task in tasks] == [rule.description for rule in RULES]
    for task in tasks:
        assert [example.input for example in task.examples] == list(SENTENCES)
    assert len(make_rule_tasks((*RULES, *WORD_RULES))) == 40


def test_answers_are_scored_by_their_rule_and_reported_for_each_set(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    quick_reports: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = {"few": by_name("one_word", "three_words", "repeat"), "words": by_name("kumquat")}
    monkeypatch.setattr("text_to_lora.evaluation.obedience.SENTENCES", SENTENCES[:3])
    options: dict[str, Any] = {
        "base": base,
        "tokenizer": tokenizer,
        "generate": generate(base),
        "output_dir": tmp_path,
        "sets": sets,
        "max_new_tokens": 6,
    }
    reports = evaluate_obedience(**options)
    assert list(reports) == ["few", "words"]
    for name, rules in sets.items():
        report = reports[name]
        assert list(report["tasks"]) == sorted(rule.description for rule in rules)
        assert list(report["conditions"]) == ["base", "in_prompt", "matched"]
        assert report["measures"]["nll"]["tasks"] == report["measures"]["exact_match"]["tasks"] == 0
        samples, _ = read_samples(sample_path(tmp_path / name, "matched"))
        for rule in rules:
            of_rule = [sample for sample in samples if sample.task == rule.description]
            assert [s.score for s in of_rule] == [rule.obeys(s.input, s.answer) for s in of_rule]
            assert {(s.metric, s.nll, s.adapter_text) for s in of_rule} == {
                ("rule", None, rule.description)
            }
    base_answers, _ = read_samples(sample_path(tmp_path / "few", "base"))
    assert len({(s.input, s.answer) for s in base_answers}) == len({s.input for s in base_answers})
    lines: list[str] = []
    assert evaluate_obedience(**options, progress=lines.append) == reports
    assert sum("finished before" in line for line in lines) == 6
    assert quick_reports(tmp_path / "few") == reports["few"]


def test_a_rule_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown rule 'shout'; choose among capitals, "):
        find_rule("shout")
    with pytest.raises(ConfigError, match="unknown metric kind 'rules'"):
        Metric("rules", rule="capitals")  # type: ignore[arg-type]
