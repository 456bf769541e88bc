"""The script that measures our suite on benchmarks: on tiny tasks, and its page against its JSON."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.baselines.fixed import StaticAdapter
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.samples import read_samples, sample_path
from text_to_lora.evaluation.stats import Interval
from text_to_lora.lora import LoraSpec, save_adapter
from text_to_lora.tasks.task import Example, Metric, Task
from tiny_models import base_folder, hypernet_folder

__all__ = ["base_folder", "hypernet_folder"]

JUDGE = Path(__file__).parents[2] / "benchmarks" / "judge"
TASKS = {  # name: (split, metric, labels)
    "benchmarks.openbookqa": ("benchmarks", "classification", ["A", "B"]),
    "benchmarks.gsm8k": ("benchmarks", "final_number", []),
    "benchmarks.mbpp": ("benchmarks", "code_execution", []),
    "bbh.navigate": ("eval_only", "classification", ["Yes", "No"]),
    "bigbench_ii.tense": ("eval_only", "rougeL", []),
    "legalbench.diversity_2": ("dev_heldout", "classification", ["yes", "no"]),
    "legalbench.proa": ("train", "classification", ["Yes", "No"]),
    "medical.abstracts": ("dev_heldout", "classification", ["heart", "skin"]),
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("judge_benchmarks", JUDGE / "benchmarks.py")
    assert spec is not None and spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(JUDGE), *sys.path])
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "judge_benchmarks", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of each kind in each split, twenty rows each."""
    root = tmp_path_factory.mktemp("data")
    for name, (split, metric, labels) in TASKS.items():
        folder = root / name.partition(".")[0]
        folder.mkdir(exist_ok=True)
        entry = {
            "id": name,
            "descriptions": [f"Do what {name} says.", f"Say {name}."],
            "metric": {"kind": metric, "labels": labels},
            "group": name,
            "split": split,
        }
        file = folder / "tasks.json"
        known = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps([*known, entry]))
        answers = labels or {"final_number": ["so\n#### 4"], "rougeL": ["it went"]}.get(
            metric, ["x = 4"]
        )
        with (folder / "data.jsonl").open("a") as rows:
            for idx in range(20):
                row = {"input": f"{name} {idx}?", "outputs": [answers[-1 if idx % 3 == 0 else 0]]}
                rows.write(json.dumps({"task_id": name, "idx": idx, **row}) + "\n")
    tests = {
        f"benchmarks.mbpp|benchmarks.mbpp {idx}?": {"test": "assert x == 4"} for idx in range(20)
    }
    (root / "benchmarks" / "code_tests.json").write_text(json.dumps(tests))
    return root


@pytest.fixture(scope="module")
def run(
    script: ModuleType,
    data: Path,
    base_folder: Path,
    hypernet_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Run the script on the tiny tasks; give the folder of samples and the JSON by suite."""
    folder = tmp_path_factory.mktemp("judged")
    config = LlamaConfig.from_pretrained(base_folder)
    spec = LoraSpec.from_config(config, targets=["q_proj"], rank=2, name=str(base_folder))
    multitask = save_adapter(
        StaticAdapter(spec, torch.Generator().manual_seed(0)).adapter(), folder / "multitask"
    )

    def once() -> tuple[Path, dict[str, Any]]:
        arguments = ["--data", data, "--model", hypernet_folder, "--multitask", multitask]
        arguments += ["--work", folder / "work", "--out", folder / "out", "--allow-code-execution"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["benchmarks.py", *map(str, arguments)])
            short = {"rows": 3, "max_new_tokens": 8}
            parts = [script.Part(p.suite, p.long, **short) for p in script.PARTS]
            patch.setattr(script, "PARTS", parts)
            patch.setattr(script, "_files", lambda name: [])
            # The script reads samples; the report of each part is tested elsewhere.
            patch.setattr("text_to_lora.evaluation.suite.build_report", lambda folder: {})
            script.main()
        return folder / "work", script.read_cells(folder / "out")

    return once


@pytest.fixture(scope="module")
def judged(run: Any) -> tuple[Path, dict[str, Any]]:
    found: tuple[Path, dict[str, Any]] = run()
    return found


def test_scores_are_those_of_the_samples_on_rows_that_may_be_scored(
    judged: tuple[Path, dict[str, Any]],
) -> None:
    work, cells = judged
    assert list(cells) == ["benchmarks", "bbh", "bigbench_ii", "law", "medicine"]
    task = cells["medicine"]["tasks"]["medical.abstracts"]
    samples, _ = read_samples(sample_path(work / "medicine", "base"))
    assert {sample.idx % 10 >= 5 for sample in samples} == {True}
    right = [normalise(s.answer) == normalise(s.reference) for s in samples]
    assert task["conditions"]["base"]["score"]["mean"] == sum(right) / 3
    likely = [s.label_score for s in samples]
    assert task["conditions"]["base"]["label_score"]["mean"] == pytest.approx(sum(likely) / 3)
    assert (task["rows_scored"], task["rows_that_may_be_scored"]) == (3, 10)
    assert task["rows_available"] == 20
    assert set(task["conditions"]) == set(
        ["base", "in_prompt", "multitask", "matched", "paraphrase", "shuffled", "junk"]
    )


def test_seen_tasks_are_reported_apart_and_on_their_validation_rows(
    judged: tuple[Path, dict[str, Any]],
) -> None:
    work, cells = judged
    law = cells["law"]
    assert (law["parts"]["unseen"]["tasks"], law["parts"]["seen"]["tasks"]) == (1, 1)
    assert law["tasks"]["legalbench.proa"]["seen"]
    assert not law["tasks"]["legalbench.diversity_2"]["seen"]
    samples, _ = read_samples(sample_path(work / "law", "matched"))
    seen = [sample.idx for sample in samples if sample.task == "legalbench.proa"]
    assert {idx % 10 for idx in seen} == {9}


def test_code_is_run_and_both_readers_stand_in_the_json(
    judged: tuple[Path, dict[str, Any]],
) -> None:
    _, cells = judged
    readers = cells["benchmarks"]["readers"]
    assert {task["kind"] for task in readers["base"]["tasks"].values()} == {
        "choice",
        "number",
        "code",
    }
    assert cells["benchmarks"]["code"]["network_cut"] is True
    assert cells["law"]["code"] is None
    assert cells["bigbench_ii"]["readers"] == {}  # its only task has neither choices nor numbers


def test_a_second_run_scores_nothing_again(
    judged: tuple[Path, dict[str, Any]], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    work, cells = judged
    capsys.readouterr()
    assert run() == (work, cells)
    assert "law: finished before" in capsys.readouterr().out


def test_json_of_other_sizes_is_not_taken_for_finished(
    script: ModuleType, judged: tuple[Path, dict[str, Any]], run: Any
) -> None:
    work, cells = judged
    path = work.parent / "out" / "benchmarks-law.json"
    path.write_text(json.dumps({**cells["law"], "parts_scored": []}))
    with pytest.raises(ConfigError, match=r"benchmarks-law.json' is of other parts; delete it"):
        run()
    path.unlink()
    assert run()[1]["law"]["tasks"] == cells["law"]["tasks"]  # from the samples that are there


def test_chance_is_the_best_blind_answer(script: ModuleType) -> None:
    def chance(kind: str, labels: list[str], outputs: list[str]) -> float | None:
        examples = tuple(Example("x", (o,), 5 + 10 * i) for i, o in enumerate(outputs))
        task = Task("t", "d", (), examples, Metric(kind, tuple(labels)), split="benchmarks")
        found: float | None = script.chance_level(task)
        return found

    assert chance("classification", ["a", "b", "c", "d"], ["a", "b", "c", "d"]) == 0.25
    assert chance("classification", ["a", "b"], ["a", "a", "A.", "b"]) == 0.75
    assert chance("final_number", [], ["1"]) == 0
    assert chance("rougeL", [], ["some text"]) is None


def test_an_interval_is_clear_of_chance_only_above_it(script: ModuleType) -> None:
    assert script.clear_of(Interval(0.5, 0.3, 0.7), 0.25)
    assert not script.clear_of(Interval(0.5, 0.2, 0.7), 0.25)
    assert not script.clear_of(Interval(0.1, 0.0, 0.2), 0.25)  # below chance is no claim
    assert not script.clear_of(Interval(0.5, None, None), 0.25)
    assert not script.clear_of(Interval(0.5, 0.3, 0.7), None)


def test_the_verdict_is_computed_from_the_intervals(
    script: ModuleType, judged: tuple[Path, dict[str, Any]]
) -> None:
    _, cells = judged
    cell = copy.deepcopy(cells["bbh"])
    (name,) = cell["tasks"]
    for clear in (False, True):
        for kind, found in cell["tasks"][name]["conditions"].items():
            for measure in ("score", "label_score"):
                found[measure]["clear_of_chance"] = clear and kind == "matched"
        for found in cell["parts"]["unseen"]["above_chance"].values():
            for measure in found.values():
                measure["clear"] = False
        said = script.verdict(cell, "unseen")
        assert ("No condition is clear of chance" in said) is not clear
        assert ("Clear of chance: matched (generated answers" in said) is clear
        summary = script._summary({"bbh": cell})
        assert ("in none of the 1 suites" in summary) is not clear


def test_a_figure_of_the_json_stands_on_the_page(
    script: ModuleType, judged: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, cells = judged
    cell = copy.deepcopy(cells["medicine"])
    cell["tasks"]["medical.abstracts"]["conditions"]["matched"]["score"]["mean"] = 0.98765
    (tmp_path / "benchmarks-medicine.json").write_text(json.dumps(cell))
    assert "0.99 [" in script.page(tmp_path)
    assert "Beside the paper" not in script.page(tmp_path)
    (tmp_path / "benchmarks-benchmarks.json").write_text(json.dumps(cells["benchmarks"]))
    read = cells["benchmarks"]["readers"]["base"]["tasks"]["benchmarks.openbookqa"]["reference"]
    beside = script.page(tmp_path).partition("## Beside the paper")[2]
    assert f"{100 * read:.1f} / 54.2" in beside  # Table 2's base on OpenBookQA


def test_the_page_is_what_the_script_makes_of_the_committed_json(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.RESULTS)
