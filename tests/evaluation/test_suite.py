"""A whole evaluation of a tiny model: conditions, resuming, interruption, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.evaluation import suite
from text_to_lora.evaluation.conditions import JUNK, derangements
from text_to_lora.evaluation.samples import Sample, read_samples, sample_path
from text_to_lora.evaluation.suite import evaluate_heldout
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Task

ALL = {
    "base",
    "in_prompt",
    "multitask",
    "matched",
    *(f"paraphrase.{number}" for number in (1, 2, 3)),
    *(f"shuffled.{number}" for number in (1, 2, 3)),
    "junk",
}

Generate = Callable[[Sequence[str]], LoraWeights]


@pytest.fixture
def evaluate(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[Task],
    generate: Callable[[PreTrainedModel], Generate],
    adapters: Callable[..., LoraWeights],
    tmp_path: Path,
) -> Callable[..., dict[str, Any]]:
    """Evaluate the six tasks on the tiny base, into tmp_path / "out"."""

    def run(**changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "base": base,
            "tokenizer": tokenizer,
            "tasks": tasks,
            "output_dir": tmp_path / "out",
            "generate": generate(base),
            "multitask": adapters(base, 1, seed=99),
            "rows_per_task": 2,
            "max_new_tokens": 4,
            "max_length": 48,
        }
        return evaluate_heldout(**(options | changes))

    return run


def samples_of(folder: Path, condition: str) -> list[Sample]:
    return read_samples(sample_path(folder, condition))[0]


def test_every_condition_is_scored_on_the_same_rows_with_its_own_texts(
    evaluate: Callable[..., dict[str, Any]], tasks: list[Task], tmp_path: Path
) -> None:
    lines: list[str] = []
    report = evaluate(progress=lines.append)
    out = tmp_path / "out"
    assert {path.stem for path in (out / "samples").iterdir()} == ALL
    assert len(lines) == 1 + len(ALL)
    definitions = {task.name: task.definition for task in tasks}
    rows = {name: [(s.task, s.idx) for s in samples_of(out, name)] for name in ALL}
    assert len(rows["base"]) == 12
    assert all(idx % 10 >= 5 for _, idx in rows["base"])
    for name in ALL - {f"paraphrase.{number}" for number in (1, 2, 3)}:
        assert rows[name] == rows["base"]
    # task number n has n descriptions beside its definition
    assert {task for task, _ in rows["paraphrase.3"]} == {"task3", "task4", "task5"}
    for sample in samples_of(out, "in_prompt"):
        assert (sample.prompt_text, sample.adapter_text) == (definitions[sample.task], "")
    for sample in samples_of(out, "matched"):
        assert (sample.prompt_text, sample.adapter_text) == ("", definitions[sample.task])
    for name in ("base", "multitask"):
        assert {(s.prompt_text, s.adapter_text) for s in samples_of(out, name)} == {("", "")}
    for number, donors in enumerate(derangements(tasks, seed=0), start=1):
        for sample in samples_of(out, f"shuffled.{number}"):
            assert sample.adapter_text == definitions[donors[sample.task]]
    for task in tasks:  # the rows of a task take the junk texts in turn
        texts = [s.adapter_text for s in samples_of(out, "junk") if s.task == task.name]
        assert texts == list(JUNK[:2])
    values = {name: [s.nll for s in samples_of(out, name)] for name in ALL - {"paraphrase.3"}}
    assert len({tuple(nlls[:4]) for nlls in values.values()}) == len(values)
    assert set(report["conditions"]) == {name.split(".")[0] for name in ALL} - {"paraphrase"} | {
        f"paraphrase.{number}" for number in (1, 2, 3)
    }
    assert json.loads((out / "report.json").read_text()) == report
    assert report["conditions"]["matched"]["groups"] == 5
    for name in ("report.md", "conditions.png", "slopes.png"):
        assert (out / name).stat().st_size > 100


def test_finished_conditions_are_not_scored_again(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first = evaluate(conditions=["base", "matched", "shuffled"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "samples").iterdir()}
    lines: list[str] = []
    again = evaluate(conditions=["base", "matched", "shuffled"], progress=lines.append)
    assert again == first
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sum("finished before" in line for line in lines) == 5
    more = evaluate(conditions=["junk"])  # adds to what is there
    assert set(more["conditions"]) == {"base", "matched", "shuffled", "junk"}
    assert more["differences"]["matched - shuffled"] == first["differences"]["matched - shuffled"]


def test_an_interrupted_run_goes_on_to_the_same_report(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["base", "matched", "shuffled", "junk"]
    whole = evaluate(conditions=kinds, output_dir=tmp_path / "whole")
    write = suite.write_samples

    def stop_in_the_middle(path: Path, *args: Any) -> None:
        if path.stem == "shuffled.2":
            raise KeyboardInterrupt
        write(path, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(suite, "write_samples", stop_in_the_middle)
        evaluate(conditions=kinds)
    done = {path.name for path in (tmp_path / "out" / "samples").iterdir()}
    assert done == {"base.parquet", "matched.parquet", "shuffled.1.parquet"}
    resumed = evaluate(conditions=kinds)
    for report in (whole, resumed):
        for condition in report["conditions"].values():
            del condition["seconds"]
    assert resumed == whole


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"rows_per_task": 3}, "rows_per_task"),
        ({"provenance": {"hypernet": "b"}}, "provenance"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
    ],
)
def test_the_folder_of_another_evaluation_is_refused(
    evaluate: Callable[..., dict[str, Any]], changes: dict[str, Any], field: str
) -> None:
    evaluate(conditions=["base"], provenance={"hypernet": "a"})
    with pytest.raises(ConfigError, match=f"holds an evaluation with another '{field}'"):
        evaluate(**({"conditions": ["base"], "provenance": {"hypernet": "a"}} | changes))


def test_another_base_of_equal_shape_is_refused(
    evaluate: Callable[..., dict[str, Any]], base: PreTrainedModel
) -> None:
    evaluate(conditions=["base"])
    with torch.no_grad():
        base.bert.encoder.layer[0].output.LayerNorm.weight.mul_(1.01)
    with pytest.raises(ConfigError, match="another 'base'"):
        evaluate(conditions=["base"])


def test_samples_of_other_adapters_are_not_taken_over(
    evaluate: Callable[..., dict[str, Any]],
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
) -> None:
    evaluate(conditions=["matched"])
    with pytest.raises(ConfigError, match=r"matched\.parquet' was scored with other adapters"):
        evaluate(conditions=["matched"], generate=lambda texts: generate(base)(texts).scale(1.001))


def test_conditions_without_their_adapters_are_left_out_or_refused(
    evaluate: Callable[..., dict[str, Any]],
) -> None:
    report = evaluate(generate=None, multitask=None)
    assert list(report["conditions"]) == ["base", "in_prompt"]
    with pytest.raises(ConfigError, match="'junk' needs generate=; give it or leave 'junk' out"):
        evaluate(generate=None, conditions=["junk"])
    with pytest.raises(ConfigError, match="'multitask' needs multitask="):
        evaluate(multitask=None, conditions=["multitask"])


def test_equal_names_and_broken_adapters_are_refused(
    evaluate: Callable[..., dict[str, Any]],
    tasks: list[Task],
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="two tasks have the same name"):
        evaluate(tasks=[*tasks, tasks[0]])
    with pytest.raises(SpecError, match="holds NaN or infinity"):
        evaluate(
            conditions=["matched"], generate=lambda texts: generate(base)(texts).scale(torch.inf)
        )
    assert not sample_path(tmp_path / "out", "matched").exists()
