"""The judge's experiments, run on a tiny base: what the cells say, and the pages made of them."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.models.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "judge"
ANSWERS = ("red", "green", "blue", "grey", "pink", "brown")
STEPS = 50  # one line of the history
NAMES = ("references", "default-0", "default-1", "in-prompt", "hyperdecoder")
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

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def judged_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks of six groups that share no label."""
    root = tmp_path_factory.mktemp("judged")
    (root / "own").mkdir()
    tasks = [
        {
            "id": f"say-{answer}",
            "descriptions": [
                f"{verb} {answer}." for verb in ("Say", "Write", "Tell", "Put", "Give")
            ],
            "metric": {"kind": "classification", "labels": [answer, f"not {answer}"]},
            "group": answer,
        }
        for answer in ANSWERS
    ]
    rows = [
        {"task_id": f"say-{answer}", "idx": i, "input": "x" * (3 * i % 20 + 1), "outputs": [answer]}
        for answer in ANSWERS
        for i in range(20)
    ]
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = [f"say-{answer}" for answer in ANSWERS]
    (root / "splits.json").write_text(json.dumps({"train": names, "dev_heldout": names}))
    return root


@pytest.fixture(scope="module")
def run_judge(judged_data: Path) -> Run:
    """Run a script of benchmarks/judge in this process; gives the names that it defines."""

    def run(script: str, *arguments: str | Path | int) -> dict[str, Any]:
        given = ["--data", judged_data, "--rows", 2, *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
            patch.setattr(sys, "argv", [script, *map(str, given)])
            return runpy.run_path(str(SCRIPTS / script), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def cells(
    run_judge: Run, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str | Path | int]]:
    """The folder of cells, and the arguments that made them."""
    root = tmp_path_factory.mktemp("cells")
    (root / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    arguments = [
        *("--base", base_folder, "--alias", base_folder, "--recipe", root / "tiny.yaml"),
        *("--steps", STEPS, "--work", root / "work", "--out", root / "judge" / "cells"),
    ]
    run_judge("cells.py", *arguments, "--cells", ",".join(NAMES), "--inside")
    return root, arguments


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "judge" / "cells" / f"{name}.json").read_text())
    return found


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
    assert set(cell["nll"]) == {"matched", "shuffled", "junk"}
    assert str(judged_data) not in json.dumps(cell) and "--data DIR" in cell["command"]


def test_cells_differ_as_their_names_say(cells: tuple[Path, list[Any]]) -> None:
    folder, _ = cells
    found = {name: read(folder, name)["nll"] for name in NAMES}
    assert found["default-0"]["matched"] != found["default-1"]["matched"]
    assert "matched, in prompt" in found["in-prompt"]
    assert found["in-prompt"]["matched, in prompt"] != found["in-prompt"]["matched"]
    assert set(found["hyperdecoder"]) == {"matched"}  # inputs cannot be shuffled or junk
    assert set(found["references"]) == {"base", "in_prompt"}


def test_a_finished_cell_is_kept_and_refuses_other_settings(
    cells: tuple[Path, list[Any]], run_judge: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, arguments = cells
    before = (folder / "judge" / "cells" / "default-0.json").read_bytes()
    run_judge("cells.py", *arguments, "--cells", "default-0", "--inside")
    assert "default-0: finished before" in capsys.readouterr().out
    assert (folder / "judge" / "cells" / "default-0.json").read_bytes() == before
    with pytest.raises(ConfigError, match=r"has training .*'steps': 50.*this run .*'steps': 51"):
        run_judge("cells.py", *arguments, "--cells", "default-0", "--inside", "--steps", 51)
    with pytest.raises(ConfigError, match="no cell 'size-XL'; there are references, default-0"):
        run_judge("cells.py", *arguments, "--cells", "size-XL", "--inside")


def test_alignment_compares_every_source_and_form(
    cells: tuple[Path, list[Any]], run_judge: Run
) -> None:
    folder, _ = cells
    model = folder / "work" / "default-0" / "hypernet"
    out = folder / "judge"
    run_judge("alignment.py", "--model", model, "--out", out, "--plots", folder / "plots")
    tasks = json.loads((out / "alignment.json").read_text())["tasks"]
    assert set(tasks) == {"seen", "unseen"}
    assert "unseen paraphrases" in tasks["seen"] and "training descriptions" in tasks["seen"]
    assert "descriptions of training tasks" in tasks["unseen"]
    for rows in tasks.values():
        assert rows["definition"]["minus_definition"]["mean"] == 0
        assert {"junk", "one line", "paragraph", "keywords", "no label names"} <= set(rows)
        assert rows["paragraph"]["words"] > rows["one line"]["words"]
    assert (folder / "plots" / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_the_cells_say_and_what_was_not_run(
    cells: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = cells
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    made = runpy.run_path(str(SCRIPTS / "results.py"))
    text = made["page"](folder / "judge")
    cell = read(folder, "default-0")
    mean = sum(cell["nll"]["matched"].values()) / len(ANSWERS)
    assert f"| default, seed 0 | 0.0 M | 0 | {mean:.3f} [" in text
    assert "Not run yet: default, seed 2; 64 training tasks" in text
    other = sum(read(folder, "default-1")["nll"]["matched"].values()) / len(ANSWERS)
    assert f"two seeds of the default is {abs(mean - other):.3f}" in text
    made["draw"](folder / "judge", folder)
    assert (folder / "ablations.png").read_bytes().startswith(b"\x89PNG")


def test_the_committed_pages_say_what_the_committed_json_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    made = runpy.run_path(str(SCRIPTS / "results.py"))
    assert made["write"](made["DOCS"], made["RESULTS"], check=True) == []
