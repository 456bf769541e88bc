"""The experiments on a library, run on a tiny one: what the cells say, and the page made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.lora import save_adapter
from text_to_lora.lora.library import AdapterLibrary
from text_to_lora.models.base import load_base
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task

Run = Callable[..., None]
Cells = dict[str, dict[str, Any]]

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
NAMED = ["say-blue", "say-red", "say-pink"]
TINY = ["--steps", "2", "--batch", "4", "--latent", "8", "--head-in", "8", "--encoder", "hash"]


@pytest.fixture(scope="module")
def results(
    run_script: Run, library: AdapterLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of all experiments, each run once; plots lie in `plots`."""
    folder = tmp_path_factory.mktemp("results")
    multitask = save_adapter(library.mean(), folder / "multitask")
    run_script("oracles.py", "--out", folder / "oracles", "--multitask", multitask, "--rows", 1)
    similarity = ("--out", folder / "similarity", "--plots", folder / "plots")
    work = ("--work", folder / "work")
    run_script("similarity.py", *similarity, *work, "--encoder", "hash")
    work = (*work, *TINY)
    cells = ("--tasks", ",".join(NAMED), "--cells", "L-one-hot,S-text")
    run_script("table1.py", "--out", folder / "table1", *cells, *work)
    cells = ("--sizes", "2,6", "--cells", "mean-2,mean-6,L-2,M-6,L-6-text")
    run_script("scaling.py", "--out", folder / "scaling", *cells, *work)
    return folder


def _cells(folder: Path) -> Cells:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of the experiments."""
    folders = [str(ROOT / "benchmarks" / "library"), str(ROOT / "benchmarks")]
    monkeypatch.setattr(sys, "path", [*folders, *sys.path])
    return __import__


def test_oracles_are_scored_by_their_own_adapters_on_held_out_rows(
    results: Path, library: AdapterLibrary, data_folder: Path, base_folder: Path
) -> None:
    cells = _cells(results / "oracles")
    assert list(cells) == ["base", "mean", "multitask", "oracle"]
    scorer = Scorer(*load_base(base_folder))
    (task,) = (t for t in load_data_dir(data_folder) if t.name == "say-blue")
    rows = choose_rows([task], rows_per_task=1, seed=0, examples=Task.validation)
    assert [row.example.idx % 10 for row in rows] == [9]
    (answer,) = scorer.score(rows, weights=library.adapter("say-blue"))
    assert cells["oracle"]["tasks"]["say-blue"]["nll"] == pytest.approx(answer.nll, rel=1e-5)
    nlls = {
        name: {task: found["nll"] for task, found in cell["tasks"].items()}
        for name, cell in cells.items()
    }
    # the multi-task adapter of this test is the mean adapter
    assert nlls["multitask"] == pytest.approx(nlls["mean"], rel=1e-5)
    wins = cells["oracle"]["minus"]["base"]["nll"]
    better = sum(nlls["oracle"][name] < nlls["base"][name] for name in library.names)
    assert (wins["tasks"], wins["tasks_better"]) == (6, better)


def test_a_cell_says_how_it_was_made_and_names_no_folder_of_the_machine(
    results: Path, library: AdapterLibrary
) -> None:
    for folder in ("oracles", "similarity", "table1", "scaling"):
        for name, cell in _cells(results / folder).items():
            assert cell["cell"] == name
            assert "--library LIBRARY --data DIR --out OUT" in cell["command"]
            assert cell["library"]["fingerprint"] == library.fingerprint
            assert cell["machine"]["threads"] == 1 and cell["date"] and cell["seconds"] >= 0
            assert str(results) not in json.dumps(cell)


def test_a_finished_cell_is_kept_and_one_of_other_settings_refused(
    run_script: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = results / "oracles"
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run_script("oracles.py", "--out", out, "--rows", 1)
    assert capsys.readouterr().out.splitlines()[0] == "base: finished before"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ConfigError, match=r"base\.json' has rows_per_task 1, this run 2"):
        run_script("oracles.py", "--out", out, "--rows", 2)


def test_similarities_are_correlated_over_all_pairs_and_drawn(results: Path) -> None:
    cells = _cells(results / "similarity")
    assert sorted(cells) == ["centred", "delta", "factors"]
    for name, cell in cells.items():
        assert cell["all_pairs"]["pearson"]["pairs"] == 15
        assert cell["across_groups"]["pearson"]["pairs"] == 13  # two groups of two
        plot = results / "plots" / f"library-similarity-{name}.png"
        assert plot.read_bytes()[:4] == b"\x89PNG"


def test_named_tasks_are_reconstructed_from_names_and_from_text(results: Path) -> None:
    cells = _cells(results / "table1")
    assert set(cells) == {"base", "mean", "oracle", "L-one-hot", "S-text"}
    for name, cell in cells.items():
        assert cell["scored"] == NAMED
        assert set(cell["tasks"]) == set(cell["intervals"]) == set(NAMED)
        mean = sum(values["nll"] for values in cell["tasks"].values()) / 3
        assert cell["summary"]["nll"]["mean"] == pytest.approx(mean)
        if name in ("L-one-hot", "S-text"):
            gap = cell["recovery"]["gap_closed"]["mean"]
            base, oracle = (cells[of]["summary"]["nll"]["mean"] for of in ("base", "oracle"))
            assert gap == pytest.approx((base - mean) / (base - oracle))
            assert cell["errors"]["all"] == cell["errors"]["scored"]
            assert (cell["head"], cell["conditioning"]) == tuple(name.split("-", 1))
    assert cells["oracle"]["errors"]["all"]["delta_error"] == pytest.approx(0, abs=1e-6)
    assert cells["L-one-hot"]["bytes"]["ratio"] < cells["S-text"]["bytes"]["ratio"]


def test_a_growing_library_is_scored_on_the_tasks_of_its_smallest_part(
    results: Path, library: AdapterLibrary
) -> None:
    cells = _cells(results / "scaling")
    sets = {"mean-2": 2, "mean-6": 6, "L-2": 2, "M-6": 6, "L-6-text": 6}
    assert set(cells) == {"base", "oracle", *sets}
    for name, size in sets.items():
        cell = cells[name]
        assert cell["adapters"] == size
        assert set(cell["tasks"]) == set(library.names[:2])
        if not name.startswith("mean"):
            of = cell["bytes"]
            assert of["library"] == 4 * library.spec.num_parameters * size
            assert of["with_moments"] == of["parameters"] + 2 * 4 * library.spec.num_parameters
            assert of["ratio"] == pytest.approx(of["library"] / of["parameters"])
    assert cells["base"]["recovery"]["gap_closed"]["mean"] == 0


def test_the_error_of_the_mean_adapter_is_its_distance_from_each(
    results: Path, library: AdapterLibrary
) -> None:
    cells = _cells(results / "scaling")
    part = library.select(library.names[:2])
    sides = [(part.mean().a, part.weights.a), (part.mean().b, part.weights.b)]
    errors = [(mean[key] - each[key]).abs().mean().item() for mean, each in sides for key in mean]
    found = cells["mean-2"]["errors"]["all"]["factor_l1"]
    assert found == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_every_figure_of_the_page_is_of_a_cell(
    script: Callable[[str], ModuleType], results: Path
) -> None:
    module = script("results")
    text = module.page(results)
    for experiment in ("oracles", "table1", "scaling", "similarity"):
        cells = _cells(results / experiment)
        assert f"| {experiment} | `python benchmarks/library/{experiment}.py" in text
        for cell in cells.values():
            if "summary" in cell:
                assert module.interval(cell["summary"]["score"]) in text
            if "errors" in cell and experiment == "scaling":
                assert f"{cell['errors']['all']['factor_l1']:.2e}" in text
            if "across_groups" in cell:
                assert f"{cell['across_groups']['pearson']['value']:.3f}" in text
    module.draw(results, results / "plots")
    for name in ("library-oracles", "library-scaling"):
        assert (results / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert module.page(results / "nothing").splitlines()[0] == "# Libraries of adapters: results"


def test_the_committed_page_holds_the_committed_results(
    script: Callable[[str], ModuleType],
) -> None:
    module = script("results")
    assert module.PAGE.read_text(encoding="utf-8") == module.page()


def test_the_experiments_are_those_that_were_asked_for(
    script: Callable[[str], ModuleType],
) -> None:
    scaling, table1, run_all = (script(name) for name in ("scaling", "table1", "run_all"))
    cells = scaling.list_cells([*scaling.SIZES], [*scaling.FEW_SIZES])
    asked = {f"L-{size}" for size in (16, 32, 64, 128, 256)}
    asked |= {f"{head}-{size}" for head in "MS" for size in (16, 64, 256)}
    assert asked < set(cells)
    assert len(set(table1.NINE)) == 9 and len(table1.CELLS) == 3 + 6
    planned = [job for stage in run_all.stages(None) for _, job in stage]
    for script_name, names in (("scaling.py", cells), ("table1.py", table1.CELLS)):
        jobs = [job[2].split(",") for job in planned if job[0] == script_name]
        assert sorted(name for job in jobs for name in job) == sorted(names)


@pytest.mark.skipif(not DATA.is_dir(), reason="the task data is not here")
def test_the_nine_named_tasks_are_training_tasks_of_nine_sources(
    script: Callable[[str], ModuleType],
) -> None:
    tasks = {task.name: task for task in load_data_dir(DATA, "train")}
    nine = [tasks[name] for name in script("table1").NINE]
    assert len({task.group for task in nine}) == 9
    assert sorted(task.metric.kind for task in nine) == (
        ["classification"] * 3 + ["exact_match"] * 3 + ["rougeL"] * 3
    )
