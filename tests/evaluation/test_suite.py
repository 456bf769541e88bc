"""A whole evaluation of a tiny model: conditions, resuming, interruption, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError, SpecError, T2LWarning
from text_to_lora.evaluation import suite
from text_to_lora.evaluation.conditions import Condition, Setup, Sources, plan_conditions
from text_to_lora.evaluation.conditions.given import Multitask
from text_to_lora.evaluation.conditions.prompting import Base, InContext
from text_to_lora.evaluation.conditions.routing import Arrow
from text_to_lora.evaluation.samples import Sample, read_samples, sample_path
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.library.library import AdapterLibrary, LibraryEntry
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Metric, Row, Task

Generate = Callable[[Sequence[str]], LoraWeights]
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def library(base: PreTrainedModel, adapters: Callable[..., LoraWeights]) -> AdapterLibrary:
    """Adapters of five tasks, two of them scored here."""
    names = ("task0", "x", "task3", "y", "z")
    entries = [LibraryEntry(name, (f"{name[-1]} a",)) for name in names]
    return AdapterLibrary(adapters(base, 5, seed=5), entries)


@pytest.fixture
def conditions_of(
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
    adapters: Callable[..., LoraWeights],
    library: AdapterLibrary,
) -> Callable[..., list[Condition]]:
    """Conditions of these kinds, of everything that they may need."""

    def make(kinds: Sequence[str] | None, tasks: list[Task], **changes: Any) -> list[Condition]:
        sources = Sources(
            tasks=tasks,
            generate=generate(base),
            encode=load_encoder("hash").encode,
            multitask=adapters(base, 1, seed=99),
            library=library,
            hyperdecoder=changes.get("generate", generate(base)),
            oracle=library,
        )
        return plan_conditions(kinds, replace(sources, **changes))

    return make


@pytest.fixture
def evaluate(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[Task],
    conditions_of: Callable[..., list[Condition]],
    quick_reports: object,
    tmp_path: Path,
) -> Evaluate:
    """Evaluate the six tasks on the tiny base, into tmp_path / "out"."""

    def run(kinds: Sequence[str] | None = None, **changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "base": base,
            "tokenizer": tokenizer,
            "tasks": tasks,
            "output_dir": tmp_path / "out",
            "rows_per_task": 2,
            "max_new_tokens": 4,
            "max_length": 48,
        }
        sources = {name: changes.pop(name) for name in ("generate",) if name in changes}
        options |= changes
        if "conditions" not in options:
            options["conditions"] = conditions_of(
                kinds, options["tasks"], seed=options.get("seed", 0), **sources
            )
        return evaluate_suite(**options)

    return run


def samples_of(folder: Path, condition: str) -> list[Sample]:
    return read_samples(sample_path(folder, condition))[0]


def test_every_condition_is_scored_as_it_plans_the_same_rows(
    evaluate: Evaluate,
    conditions_of: Callable[..., list[Condition]],
    tasks: list[Task],
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    report = evaluate(progress=lines.append)
    out = tmp_path / "out"
    plan = conditions_of(None, tasks)
    names = {condition.name for condition in plan}
    assert {path.stem for path in (out / "samples").iterdir()} == names
    assert len(lines) == 1 + len(plan)
    rows = [Row(task, e) for task in tasks for e in task.scored()]
    scored = [(s.task, s.idx) for s in samples_of(out, "base")]
    assert len(scored) == 12
    rows = [row for row in rows if (row.task.name, row.example.idx) in scored]
    values = set()
    for condition in plan:
        samples = samples_of(out, condition.name)
        assert [(s.task, s.idx, s.prompt_text, s.adapter_text) for s in samples] == [
            (row.task.name, row.example.idx, setup.description or "", setup.adapter or "")
            for row, setup in zip(rows, condition.plan(rows), strict=True)
            if setup is not None
        ]
        values.add(tuple(sample.nll for sample in samples))
    assert len(values) == len(plan)
    assert "shuffled" in report["conditions"] and "paraphrase.3" in report["conditions"]
    assert json.loads((out / "report.json").read_text()) == report
    for name in ("report.md", "conditions.png", "slopes.png"):
        assert (out / name).stat().st_size > 100


def test_finished_conditions_are_not_scored_again(evaluate: Evaluate, tmp_path: Path) -> None:
    first = evaluate(kinds=["base", "matched", "shuffled"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "samples").iterdir()}
    lines: list[str] = []
    again = evaluate(kinds=["base", "matched", "shuffled"], progress=lines.append)
    assert again == first
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sum("finished before" in line for line in lines) == 5
    more = evaluate(kinds=["junk"])  # adds to what is there
    assert set(more["conditions"]) == {"base", "matched", "shuffled", "junk"}
    assert more["differences"]["matched - shuffled"] == first["differences"]["matched - shuffled"]


def test_an_interrupted_run_goes_on_to_the_same_report(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["base", "matched", "shuffled", "junk"]
    monkeypatch.setattr(suite, "ROWS_PER_PART", 5)
    whole = evaluate(kinds=kinds, output_dir=tmp_path / "whole")
    assert not (tmp_path / "whole" / "parts").exists()
    write = suite.write_samples
    written: list[Path] = []

    def stop_in_the_middle(path: Path, *args: Any) -> None:
        if path.parent.name == "shuffled.2" and path.stem == "00002":
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(suite, "write_samples", stop_in_the_middle)
        evaluate(kinds=kinds)
    out = tmp_path / "out"
    done = {path.name for path in (out / "samples").iterdir()}
    assert done == {"base.parquet", "matched.parquet", "shuffled.1.parquet"}
    parts = sorted((out / "parts" / "shuffled.2").iterdir())
    assert [path.name for path in parts] == ["00000.parquet", "00001.parquet"]
    monkeypatch.setattr(
        suite, "write_samples", lambda *args: written.append(args[0]) or write(*args)
    )
    written.clear()
    resumed = evaluate(kinds=kinds)
    assert written[:2] == [out / "parts/shuffled.2/00002.parquet", sample_path(out, "shuffled.2")]
    assert samples_of(out, "shuffled.2") == samples_of(tmp_path / "whole", "shuffled.2")
    assert not (out / "parts").exists()
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
    evaluate: Evaluate, changes: dict[str, Any], field: str
) -> None:
    evaluate(kinds=["base"], provenance={"hypernet": "a"})
    with pytest.raises(ConfigError, match=f"holds an evaluation with another '{field}'"):
        evaluate(**({"kinds": ["base"], "provenance": {"hypernet": "a"}} | changes))


def test_another_base_of_equal_shape_is_refused(evaluate: Evaluate, base: PreTrainedModel) -> None:
    evaluate(kinds=["base"])
    with torch.no_grad():
        base.bert.encoder.layer[0].output.LayerNorm.weight.mul_(1.01)
    with pytest.raises(ConfigError, match="another 'base'"):
        evaluate(kinds=["base"])


def test_samples_of_other_adapters_are_not_taken_over(
    evaluate: Evaluate,
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
) -> None:
    evaluate(kinds=["matched"])
    with pytest.raises(ConfigError, match=r"matched\.parquet' was scored with other adapters"):
        evaluate(kinds=["matched"], generate=lambda texts: generate(base)(texts).scale(1.001))


def test_equal_names_and_broken_adapters_are_refused(
    evaluate: Evaluate,
    tasks: list[Task],
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="two tasks have the same name, 'task0'"):
        evaluate(tasks=[*tasks, tasks[0]], kinds=["base"])
    with pytest.raises(ConfigError, match="two conditions have the same name, 'base'"):
        evaluate(conditions=[Base(), Base()])
    with pytest.raises(ConfigError, match="no condition to score"):
        evaluate(conditions=[])
    with pytest.raises(SpecError, match="holds NaN or infinity"):
        evaluate(kinds=["matched"], generate=lambda texts: generate(base)(texts).scale(torch.inf))
    assert not sample_path(tmp_path / "out", "matched").exists()


def test_parts_of_other_adapters_are_not_taken_over(
    evaluate: Evaluate,
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop_before_joining(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(suite._ConditionRun, "_join", stop_before_joining)
        evaluate(kinds=["matched"])
    assert (tmp_path / "out" / "parts" / "matched" / "00000.parquet").exists()
    with pytest.raises(ConfigError, match=r"00000\.parquet' was scored with other adapters"):
        evaluate(kinds=["matched"], generate=lambda texts: generate(base)(texts).scale(1.001))


def test_few_adapters_are_in_memory_at_once(
    evaluate: Evaluate,
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Generate],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = evaluate(kinds=["hyperdecoder", "matched"], output_dir=tmp_path / "whole")
    monkeypatch.setattr(suite, "ADAPTERS_PER_PART", 3)
    asked: list[int] = []

    def counting(texts: Sequence[str]) -> LoraWeights:
        asked.append(len(texts))
        return generate(base)(texts)

    parted = evaluate(kinds=["hyperdecoder", "matched"], generate=counting)
    assert asked == [3, 3, 3, 3, 3, 3]  # 12 inputs, 6 definitions
    for name in ("hyperdecoder", "matched"):
        one, other = (r["conditions"][name]["nll"]["mean"] for r in (whole, parted))
        assert one == pytest.approx(other, rel=1e-4)  # other batches, other padding


def test_what_conditions_are_made_of_is_noted_and_checked(
    evaluate: Evaluate, library: AdapterLibrary, tmp_path: Path
) -> None:
    evaluate(conditions=[InContext(shots=2), Arrow(library, experts=4)])
    noted = json.loads((tmp_path / "out" / "run.json").read_text())["conditions"]
    assert noted["icl"]["about"]["shots"] == 2
    assert set(noted["icl"]["shots"]) == {f"task{place}" for place in range(6)}
    assert all(len(s) == 2 and max(i % 10 for i in s) < 5 for s in noted["icl"]["shots"].values())
    assert (noted["arrow"]["about"]["experts"], noted["arrow"]["rows"]) == (4, 12)
    for changed, field in ((InContext(shots=1), "shots"), (Arrow(library), "experts")):
        with pytest.raises(ConfigError, match=f"made of other things .another '{field}'."):
            evaluate(conditions=[changed])


def test_rows_that_lost_shots_are_marked_and_counted(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(conditions=[Base(), InContext(shots=2)], max_length=32)
    samples, metadata = read_samples(sample_path(tmp_path / "out", "icl"))
    assert 0 < sum(sample.cut for sample in samples) < len(samples)
    assert metadata["shots_left_out"] >= sum(sample.cut for sample in samples)
    assert not any(sample.cut for sample in samples_of(tmp_path / "out", "base"))


class _PlugIn(Condition):
    """A plug-in: tells the prompt something, and leaves one task out."""

    name = "mine"

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        return [None if r.task.name == "task1" else Setup(description="b c") for r in rows]


def test_a_condition_of_ones_own_is_scored(evaluate: Evaluate, tmp_path: Path) -> None:
    report = evaluate(conditions=[Base(), _PlugIn()])
    samples = samples_of(tmp_path / "out", "mine")
    assert {sample.prompt_text for sample in samples} == {"b c"}
    assert report["conditions"]["mine"]["tasks"] == 5


def test_a_report_of_somebody_else_is_kept(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.md").write_text("of the annual meeting")
    with pytest.raises(ConfigError, match=r"holds 'report\.md', but no 'run\.json' of an earlier"):
        evaluate(("base",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.md"]
    assert (tmp_path / "out" / "report.md").read_text() == "of the annual meeting"


def test_prompts_without_room_are_named_before_anything_is_scored(
    evaluate: Evaluate, tasks: list[Task], tmp_path: Path
) -> None:
    long = [
        replace(task, definition="a " * length, descriptions=())
        for task, length in zip(tasks, (2, 30, 2, 20, 2, 2), strict=True)
    ]
    names = ("base", "in_prompt")
    with pytest.raises(
        ConfigError,
        match=r"max_length is 24; the prompts of 2 tasks need more, even without their inputs: "
        r"'task1' \(\d+\), 'task3' \(\d+\); give --max-length (\d+), pass --cut-descriptions, or",
    ) as caught:
        evaluate(names, tasks=long, max_length=24)
    assert not (tmp_path / "out").exists()
    enough = int(str(caught.value).partition("--max-length ")[2].partition(",")[0])
    with pytest.raises(ConfigError, match=rf"max_length is {enough - 1}; the prompts of 1 tasks"):
        evaluate(names, tasks=long, max_length=enough - 1)
    evaluate(names, tasks=long, max_length=enough)


def test_descriptions_without_room_are_cut_and_counted(
    evaluate: Evaluate, tasks: list[Task], tmp_path: Path
) -> None:
    long = [replace(task, definition="a " * 30, descriptions=()) for task in tasks[:2]]
    report = evaluate(
        ("base", "in_prompt"), tasks=[*long, tasks[2]], max_length=24, cut_descriptions=True
    )
    assert report["conditions"]["in_prompt"]["prompts_cut"] == 4
    assert report["conditions"]["base"]["prompts_cut"] == 0
    cut = [sample.task for sample in samples_of(tmp_path / "out", "in_prompt") if sample.cut]
    assert cut == ["task0", "task0", "task1", "task1"]
    assert report["settings"]["cut_descriptions"]


def test_prompts_longer_than_the_base_reads_have_another_remedy(
    evaluate: Evaluate, tasks: list[Task]
) -> None:
    long = [replace(task, definition="a " * 70, descriptions=()) for task in tasks]
    with pytest.raises(ConfigError, match="the base has 64 positions, so shorten their definition"):
        evaluate(("base", "in_prompt"), tasks=long, max_length=500)


def test_plans_that_do_not_fit_are_named(
    evaluate: Evaluate, base: PreTrainedModel, adapters: Callable[..., Any]
) -> None:
    class Short(Condition):
        name = "base.short"

        def plan(self, rows: Sequence[Row]) -> list[Setup]:
            return [Setup()]

    class Nothing(Condition):
        name = "base.nothing"

        def plan(self, rows: Sequence[Row]) -> list[None]:
            return [None] * len(rows)

    class Mixed(Condition):
        name = "base.mixed"

        def plan(self, rows: Sequence[Row]) -> list[Setup]:
            return [Setup(adapter="a" if place else None) for place in range(len(rows))]

    for condition, message in (
        (Short(), "plans 1 of 12 rows"),
        (Nothing(), "takes none of the 12 rows"),
        (Mixed(), "gives some rows an adapter and others none"),
        (Multitask(adapters(base, 2)), "gave 2 adapters for 1 keys"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(conditions=[condition])


def test_programs_are_not_run_and_named(
    evaluate: Evaluate, tasks: list[Task], tmp_path: Path
) -> None:
    code = replace(tasks[3], name="code", metric=Metric("code_execution"))
    with pytest.warns(T2LWarning, match="code ask for programs, which are not run here"):
        evaluate(tasks=[*tasks, code], kinds=["base"])
    samples = [s for s in samples_of(tmp_path / "out", "base") if s.task == "code"]
    assert [(s.answer, s.score) for s in samples] == [("", None)] * 2
    assert all(sample.nll for sample in samples)


def test_training_tasks_are_scored_on_their_validation_rows(
    evaluate: Evaluate, tasks: list[Task], tmp_path: Path
) -> None:
    mixed = [replace(tasks[0], split="train"), *tasks[1:]]
    evaluate(tasks=mixed, kinds=["base"], rows_per_task=None)
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["tasks"]["task0"]["split"] == "train"
    assert {idx % 10 for idx in settings["tasks"]["task0"]["rows"]} == {9}
    assert {idx % 10 for idx in settings["tasks"]["task1"]["rows"]} == {5, 6, 7, 8, 9}
