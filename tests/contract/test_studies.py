"""The studies, run on a tiny base: what the cells say, and the page made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml

from benchmarks.lib import RESULTS, ROOT
from benchmarks.render import read_results, render
from benchmarks.studies.ablations import noise_floor, summarise, verdict_of
from benchmarks.studies.judge import difference
from made_up_tasks import save_tasks
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.generate import TextToLora
from text_to_lora.models.base import load_base
from text_to_lora.tasks.folder import load_data_dir

ANSWERS = ("red", "green", "blue", "grey", "pink", "brown")
STEPS = 50  # one line of the history
NAMES = ("references", "default-0", "default-1", "in-prompt")
RECIPE = {
    "base": {"name": "set by the script", "dtype": "float32"},
    "adapter": {"targets": ["q_proj", "v_proj"], "rank": 2, "alpha": 4},
    "encoder": {"name": "hash"},
    "hypernet": {"latent_size": 8, "head_in_size": 16},
    "data": {
        "validation_one_in": 0,
        "descriptions_per_task": 2,
        "family_tasks": 0,
        "family_share": 0,
        "tasks_per_batch": 2,
        "max_prompt_tokens": 64,
        "max_answer_tokens": 16,
        "max_description_tokens": 64,
    },
    "optimizer": {"lr": 0.01},
    "run": {"device": "cpu"},
}

Run = Callable[..., None]


@pytest.fixture(scope="module")
def judged_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks of six groups that share no label."""
    return save_tasks(tmp_path_factory.mktemp("tasks") / "judged", ANSWERS)


@pytest.fixture(scope="module")
def run_study(judged_data: Path) -> Run:
    """Run a study in this process."""

    def run(study: str, *arguments: str | Path | int) -> None:
        given = ["--data", judged_data, "--rows", 2, *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"studies/{study}.py", *map(str, given)])
            import_module(f"benchmarks.studies.{study}").main()

    return run


@pytest.fixture(scope="module")
def cells(
    run_study: Run, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str | Path | int]]:
    """The folder of cells, and the arguments that made them."""
    root = tmp_path_factory.mktemp("cells")
    (root / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    arguments = [
        *("--base", base_folder, "--recipe", root / "tiny.yaml"),
        *("--steps", STEPS, "--work", root / "work", "--out", root / "results" / "ablations"),
    ]
    run_study("ablations", *arguments, "--cells", ",".join(NAMES))
    return root, arguments


def read(folder: Path, name: str) -> dict[str, Any]:
    cell: dict[str, Any] = json.loads(
        (folder / "results" / "ablations" / f"{name}.json").read_text()
    )
    return cell


def test_a_cell_holds_the_likelihoods_of_its_own_hypernetwork(
    cells: tuple[Path, list[Any]], base_folder: Path, judged_data: Path
) -> None:
    folder, _ = cells
    cell = read(folder, "default-0")
    t2l = TextToLora.from_pretrained(folder / "work" / "default-0" / "hypernet")
    task = load_data_dir(judged_data, "dev_heldout")[2]
    scorer = Scorer(*load_base(base_folder), max_new_tokens=0)
    with torch.no_grad():
        weights = t2l.generate([task.definition]).weights
    answers = scorer.score(choose_rows([task], rows_per_task=2, seed=0), weights=weights)
    expected = sum(answer.nll for answer in answers) / 2
    assert cell["nll"]["matched"][task.name] == pytest.approx(expected, rel=1e-4)  # of batching
    assert cell["rows_seen"] == STEPS * 2 and cell["training"]["steps"] == STEPS
    assert set(cell["nll"]) == {"matched", "shuffled", "junk", "matched_in_prompt"}
    assert set(cell["words"]) == {"constant", "label", "start", "end", "all"}
    assert str(judged_data) not in json.dumps(cell) and "--data DIR" in cell["command"]


def test_cells_differ_as_their_names_say(cells: tuple[Path, list[Any]]) -> None:
    folder, _ = cells
    nll = {name: read(folder, name)["nll"] for name in NAMES}
    assert nll["default-0"]["matched"] != nll["default-1"]["matched"]
    assert nll["in-prompt"]["matched_in_prompt"] != nll["in-prompt"]["matched"]
    assert set(nll["references"]) == {"base", "in_prompt"}


def test_a_finished_cell_is_kept_and_refuses_other_settings(
    cells: tuple[Path, list[Any]], run_study: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, arguments = cells
    before = (folder / "results" / "ablations" / "default-0.json").read_bytes()
    run_study("ablations", *arguments, "--cells", "default-0")
    assert "default-0: finished before" in capsys.readouterr().out
    assert (folder / "results" / "ablations" / "default-0.json").read_bytes() == before
    with pytest.raises(ConfigError, match=r"has training .*'steps': 50.*this run .*'steps': 51"):
        run_study("ablations", *arguments, "--cells", "default-0", "--steps", 51)
    with pytest.raises(ConfigError, match="no cell 'size-XL'; there are references, default-0"):
        run_study("ablations", *arguments, "--cells", "size-XL")


def test_alignment_compares_every_source_and_form(
    cells: tuple[Path, list[Any]], run_study: Run
) -> None:
    folder, _ = cells
    model = folder / "work" / "default-0" / "hypernet"
    out = folder / "results"
    run_study("alignment", "--model", model, "--out", out)
    tasks = json.loads((out / "alignment.json").read_text())["tasks"]
    assert set(tasks) == {"seen", "unseen"}
    assert "unseen paraphrases" in tasks["seen"] and "training descriptions" in tasks["seen"]
    assert "descriptions of training tasks" in tasks["unseen"]
    for rows in tasks.values():
        assert rows["definition"]["minus_definition"]["mean"] == 0
        assert {"junk", "one line", "paragraph", "keywords", "no label names"} <= set(rows)
        assert rows["paragraph"]["words"] > rows["one line"]["words"]


def test_the_page_says_what_the_cells_say(cells: tuple[Path, list[Any]]) -> None:
    folder, _ = cells
    results = read_results(RESULTS) | {"ablations": summarise(folder / "results" / "ablations")}
    text = render(results)["results.md"]
    means = [
        sum(read(folder, f"default-{seed}")["nll"]["matched"].values()) / len(ANSWERS)
        for seed in (0, 1)
    ]
    assert f"| default-0 | {means[0]:.3f} [" in text
    assert f"two seeds of the default is {abs(means[0] - means[1]):.3f}" in text
    assert summarise(folder) is None


def test_the_page_shows_suite_obedience_and_alignment() -> None:
    interval = {"mean": -0.5, "low": -0.75, "high": -0.25}
    paired = {"clear_of_zero": True, "tasks": 9, "tasks_better": 7}
    results = read_results(RESULTS) | {
        "suite": {
            "tasks": {"a": {}, "b": {}},
            "settings": {"rows_per_task": 7},
            "conditions": {
                "matched": {"tasks": 2, "nll": interval, "score": None, "in_labels": None}
            },
            "differences": {"matched - base": {"nll": interval | paired}},
        },
        "suite_facts": {"date": "today", "machine": {"cores": 2, "cpu": "x"}, "command": "y"},
        "obedience": {"tasks": {"Shout.": {}}, "conditions": {"matched": {"score": interval}}},
        "obedience_new_words": {
            "tasks": {"a": {}, "b": {}},
            "conditions": {"matched": {"score": interval}},
        },
        "alignment": {
            "tasks": {
                "unseen": {
                    "junk": {
                        "words": None,
                        "nll": interval,
                        "minus_definition": interval,
                        "minus_base": interval,
                    }
                }
            }
        },
    }
    text = render(results)["results.md"]
    assert "| matched | 2 | -0.500 [-0.750, -0.250] |  |  |" in text
    assert "| matched - base | **-0.500 [-0.750, -0.250]** | 7/9 |  |  |" in text
    assert "1 everyday instructions" in text and "2 with words" in text
    assert "| matched | -0.500 [-0.750, -0.250] | -0.500 [-0.750, -0.250] |" in text
    assert "| junk |  | -0.500 [-0.750, -0.250] |" in text


def test_the_committed_pages_are_rendered_from_the_committed_results() -> None:
    for name, text in render(read_results(RESULTS)).items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text


TASKS = [f"task {i}" for i in range(12)]
BOOTSTRAP = GroupBootstrap({task: f"group {i // 2}" for i, task in enumerate(TASKS)}, resamples=500)


def means_of(shift: float, noise: float = 0.0) -> dict[str, float]:
    draw = numpy.random.default_rng(0).normal(size=len(TASKS))
    return {task: 3 + shift + noise * x for task, x in zip(TASKS, draw, strict=True)}


def test_the_noise_floor_is_the_largest_difference_between_two_seeds() -> None:
    seeds = [means_of(0.0), means_of(0.03), means_of(-0.02)]
    assert noise_floor(seeds, BOOTSTRAP) == pytest.approx(0.05)
    assert noise_floor(seeds[:1], BOOTSTRAP) is None


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [(-0.2, 0.0, "better"), (0.2, 0.0, "worse"), (0.05, 0.0, "none"), (0.2, 5.0, "none")],
)
def test_a_change_counts_beyond_the_noise_floor_and_clear_of_zero(
    shift: float, noise: float, verdict: str
) -> None:
    change = difference(means_of(shift, noise), means_of(0.0), BOOTSTRAP)
    assert verdict_of(change, 0.1) == verdict
