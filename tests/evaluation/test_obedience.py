"""Adapters, base and prompt are told apart by rule, with a mean for each set of rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.obedience import build_obedience, run_obedience
from text_to_lora.evaluation.rules import RULES, Rule
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.lora.weights import LoraWeights

# Random models obey few rules; these hold for about half of what they write.
FEW = (
    *RULES[:2],
    Rule("long", "a b", lambda text, answer: len(answer) > 6),
    Rule("early", "b c", lambda text, answer: answer[:1] < "n"),
    Rule("empty", "c d", lambda text, answer: answer.count("a") % 2 == 0),
)
WORDS = (
    Rule("short", "d e", lambda text, answer: len(answer) < 9),
    Rule("late", "e f", lambda text, answer: answer[-1:] > "m"),
)
TEXTS = ("a b c", "d e", "f")


@pytest.fixture
def judge(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    tmp_path: Path,
) -> Callable[..., dict[str, Any]]:
    """Judge the tiny base and made-up adapters by a few rules, into tmp_path."""

    def run(**changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "base": base,
            "tokenizer": tokenizer,
            "generate": generate(base),
            "output_dir": tmp_path,
            "rules": FEW,
            "word_rules": WORDS,
            "sentences": TEXTS,
            "max_new_tokens": 6,
        }
        return run_obedience(**(options | changes))

    return run


def test_base_prompt_and_adapters_answer_each_rule_on_each_input(
    judge: Callable[..., dict[str, Any]],
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    tmp_path: Path,
) -> None:
    asked: list[Sequence[str]] = []

    def keep(texts: Sequence[str]) -> LoraWeights:
        asked.append(texts)
        return generate(base)(texts)

    result = judge(generate=keep)
    assert asked == [[rule.description for rule in (*FEW, *WORDS)]]
    assert json.loads((tmp_path / "obedience.json").read_text()) == result
    assert list(result["mean"]) == ["base", "in_prompt", "adapter"]
    by_name = {**result["rules"], **result["word_rules"]["rules"]}
    for rule in (*FEW, *WORDS):
        entry = by_name[rule.name]
        assert entry["description"] == rule.description
        for name, answers in entry["answers"].items():
            obeyed = [rule.obeys(text, a) for text, a in zip(TEXTS, answers, strict=True)]
            assert entry["obeyed"][name] == sum(obeyed) / len(TEXTS)
    base_answers = {tuple(rule["answers"]["base"]) for rule in result["rules"].values()}
    assert len(base_answers) == 1  # the base sees the input alone
    adapted_answers = {tuple(rule["answers"]["adapter"]) for rule in result["rules"].values()}
    assert len(adapted_answers) > 1
    assert set(result["differences"]) == {"adapter - base", "adapter - in_prompt"}
    table = (tmp_path / "obedience.md").read_text()
    assert "| description | base | in_prompt | adapter |" in table
    first, second = table.split("## Words that training never had")
    assert all(f"| {rule.description} |" in first for rule in FEW)
    assert all(f"| {rule.description} |" in second for rule in WORDS)
    assert (tmp_path / "obedience.png").read_bytes()[:4] == b"\x89PNG"


def test_means_have_intervals_over_rules(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge()
    rng = numpy.random.default_rng(5)
    spread = 0.0
    for name, mean in result["word_rules"]["mean"].items():
        shares = [rule["obeyed"][name] for rule in result["word_rules"]["rules"].values()]
        assert mean == pytest.approx(sum(shares) / len(shares))
        assert f"**{mean:.1%}** [" in (tmp_path / "obedience.md").read_text()
    for name, mean in result["mean"].items():
        shares = [rule["obeyed"][name] for rule in result["rules"].values()]
        assert mean == pytest.approx(sum(shares) / len(shares))
        draws = [sum(rng.choice(shares, len(shares))) / len(shares) for _ in range(4000)]
        ends = result["intervals"][name]
        # Means of five shares of three answers lie 1/15 apart.
        assert ends["low"] == pytest.approx(numpy.percentile(draws, 2.5), abs=0.07)
        assert ends["high"] == pytest.approx(numpy.percentile(draws, 97.5), abs=0.07)
        spread += ends["high"] - ends["low"]
        shown = f"**{mean:.1%}** [{ends['low']:.1%}, {ends['high']:.1%}]"
        assert shown in (tmp_path / "obedience.md").read_text()
    assert spread > 0.3


def test_one_rule_alone_has_no_interval(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge(rules=FEW[:1], word_rules=())
    assert result["intervals"]["adapter"] == {"low": None, "high": None}
    assert result["word_rules"] is None
    assert "training never had" not in (tmp_path / "obedience.md").read_text()
    last = next(
        line for line in (tmp_path / "obedience.md").read_text().splitlines() if "**mean" in line
    )
    assert "[" not in last


def test_what_is_finished_is_not_scored_again(
    judge: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = Scorer.score

    def count(self: Scorer, rows: Any, **options: Any) -> Any:
        if options.get("weights") is not None and not scored[2:]:
            scored.append(-1)
            raise KeyboardInterrupt
        scored.append(len(rows))
        return score(self, rows, **options)

    monkeypatch.setattr(Scorer, "score", count)
    with pytest.raises(KeyboardInterrupt):
        judge()
    assert not (tmp_path / "obedience.json").exists()
    lines: list[str] = []
    result = judge(progress=lines.append)
    num_rows = len((*FEW, *WORDS)) * len(TEXTS)
    assert scored == [len(TEXTS), num_rows, -1, num_rows]
    assert lines[:2] == ["base: finished before", "in_prompt: finished before"]
    assert lines[2].startswith("adapter: scored in ")
    whole = judge(output_dir=tmp_path / "whole")
    assert {**whole, "seconds": 0} == {**result, "seconds": 0}
    before = len(scored)
    assert judge() == result
    assert len(scored) == before


def test_the_table_is_made_again_without_a_model(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge()
    names = ("obedience.json", "obedience.md", "obedience.png")
    files = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    assert build_obedience(tmp_path, rules=FEW, word_rules=WORDS) == result
    assert {name: (tmp_path / name).read_bytes() for name in names} == files
    with pytest.raises(ConfigError, match="has answers to other rules; score again into"):
        build_obedience(tmp_path, rules=FEW, word_rules=WORDS[:1])
    (tmp_path / "obedience" / "in_prompt.json").unlink()
    with pytest.raises(ConfigError, match=r"in_prompt\.json' does not exist"):
        build_obedience(tmp_path, rules=FEW, word_rules=WORDS)


def test_a_folder_of_another_base_adapter_or_setting_is_refused(
    judge: Callable[..., dict[str, Any]],
    base: PreTrainedModel,
    adapters: Callable[..., LoraWeights],
    tmp_path: Path,
) -> None:
    judge(provenance={"hypernet": "one"})
    (tmp_path / "obedience.json").unlink()
    for changes, message in (
        ({"max_new_tokens": 7}, "another 'max_new_tokens'; choose another output folder or delete"),
        ({"provenance": {"hypernet": "two"}}, "another 'provenance'"),
        ({"sentences": TEXTS[:2]}, "another 'sentences'"),
        ({"rules": FEW[:2]}, "another 'rules'"),
        ({"word_rules": ()}, "another 'word_rules'"),
        (
            {"generate": lambda texts: adapters(base, len(texts), seed=3)},
            "was scored with other adapters",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            judge(**{"provenance": {"hypernet": "one"}, **changes})
    next(parameter for parameter in base.parameters() if parameter.ndim == 1).data += 0.1
    with pytest.raises(ConfigError, match="has answers with another 'base'"):
        judge(provenance={"hypernet": "one"})
    assert not (tmp_path / "obedience.json").exists()
