"""The study of refining, run on a tiny base: every arm, cells that are made once, and its table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.studies import refine as study
from benchmarks.studies.refine_report import plot, summarise
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import load_hypernet
from text_to_lora.training.step_adapters import read_weights


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two tasks of two groups."""
    root = tmp_path / "data"
    (root / "own").mkdir(parents=True)
    names = ["up", "down"]
    tasks = [{"id": n, "definition": f"Say {n}.", "metric": {"kind": "exact_match"}} for n in names]
    rows = [
        {"task_id": n, "idx": i, "input": f"input {i}", "outputs": [n]}
        for n in names
        for i in range(30)
    ]
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "splits.json").write_text(json.dumps({"train": names, "dev_heldout": names}))
    return root


@pytest.fixture
def run(
    data: Path, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    def call(*more: object) -> None:
        given = ["--model", hypernet_folder, "--data", data, "--out", tmp_path / "cells"]
        small = ["--one-in", 1, "--together", 2, "--steps", 2, "--test-rows", 3]
        arguments = ["refine.py", *map(str, [*given, *small, *more])]
        monkeypatch.setattr(sys, "argv", arguments)
        study.main()

    return call


def test_every_arm_gives_figures_by_step_and_a_cell_is_made_once(
    run: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study, "SETTINGS", dict.fromkeys(study.SETTINGS, ((0.01, 1.0),)))
    run("--k", 2, 8)
    files = sorted((tmp_path / "cells").glob("*.json"))
    assert len(files) == 8  # four arms, two numbers of rows
    starts = set()
    for file in files:
        cell = json.loads(file.read_text())
        assert sorted(cell["tasks"]) == ["down", "up"]
        for curve in cell["tasks"].values():
            assert [mark[0] for mark in curve] == [0, 1, 2]
            assert curve[1][3] != curve[0][3]
        if cell["arm"] != "usual":
            starts.add(round(cell["tasks"]["up"][0][3], 2))
    assert len(starts) == 1  # arms that start from the sentence start alike
    capsys.readouterr()
    run("--k", 2, 8)
    assert capsys.readouterr().out.count("finished before") == 8
    run("--show")
    assert "| 8 | both | 0.01 | 1 | 2 |" in capsys.readouterr().out


def test_the_report_averages_draws_and_counts_tasks_below_their_sentence(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run("--unseen", "--k", 8, "--draws", 2, "--arms", "sentence", "usual", "examples")
    cells = tmp_path / "cells"
    for file in cells.glob("usual-*-draw1-*.json"):
        file.unlink()  # an arm that was run on one draw is compared on that draw
    for draw, score in enumerate((0.0, 0.6)):  # after training; the sentence alone is at 0.5
        file = next(cells.glob(f"sentence-*-draw{draw}-*.json"))
        cell = json.loads(file.read_text())
        curve = [[0, 2.0, 0, 2.0, 0.5], [1, 1.5, 0, 1.5, 0.1], [2, 1.0, 0, 1.0, score]]
        cell["tasks"] = {name: curve for name in cell["tasks"]}
        cell["seconds_per_task"] = 4 + 4 * draw
        file.write_text(json.dumps(cell))
    summary = summarise(cells)
    assert summary is not None
    row = summary["rows"][8]
    assert row["arms"]["sentence"]["score"]["mean"] == pytest.approx(0.3)
    by_step = {step: at["score"]["mean"] for step, at in row["arms"]["sentence"]["by_step"].items()}
    assert by_step == pytest.approx({0: 0.5, 1: 0.1, 2: 0.3})
    assert row["arms"]["sentence"]["steps"] == 2
    assert row["arms"]["sentence"]["seconds"] == 6
    usual = row["arms"]["usual"]
    assert [usual["draws"], row["arms"]["sentence"]["draws"]] == [1, 2]
    assert usual["sentence_minus_it"]["mean"] == pytest.approx(0 - usual["score"]["mean"])
    assert row["minus_alone"]["mean"] == pytest.approx(-0.2)
    assert row["much_worse"] == 2
    assert sorted(row["arms"]) == ["examples", "sentence", "usual"]
    plot(summary, tmp_path / "refine.png", 8)
    assert (tmp_path / "refine.png").stat().st_size > 1000


def test_an_offset_of_zero_gives_the_generated_adapter(hypernet_folder: Path) -> None:
    loaded = load_hypernet(hypernet_folder)
    t2l = TextToLora(loaded, name="tiny")
    generated = t2l.generate(["Say up.", "Say down."]).weights
    with torch.no_grad():
        latent = loaded.hypernet.codes(t2l.encode(["Say up.", "Say down."]))
    adapters = study.CodeAdapters(loaded.hypernet, latent, None)
    assert [tuple(p.shape) for p in adapters.parameters()] == [(2, 16)]
    for key, factor in read_weights(adapters).a.items():
        torch.testing.assert_close(factor, generated.a[key])
