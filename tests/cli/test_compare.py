"""t2l eval compare and t2l eval report on made-up samples."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_up_samples import draw, write_run
from text_to_lora.evaluation.report import build_report
from text_to_lora.files import read_json, write_json


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations; matched of the second is better by 0.25 nats."""
    rows = draw(1, 3.0)
    better = [replace(sample, nll=sample.nll - 0.25) for sample in rows]
    folder = tmp_path_factory.mktemp("built")
    for name, matched in (("a", rows), ("b", better)):
        build_report(write_run(folder / name, {"base": draw(2, 4.0), "matched": matched}))
    return folder


@pytest.fixture
def runs(built: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of them."""
    for name in ("a", "b"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_report_is_made_anew_from_samples_alone(t2l: Any, runs: tuple[Path, Path]) -> None:
    names = ("report.json", "report.md", "conditions.png", "slopes.png")
    before = [(runs[0] / name).read_bytes() for name in names]
    for name in names:
        (runs[0] / name).unlink()
    done = t2l("eval", "report", runs[0])
    assert (done.code, done.out) == (0, (runs[0] / "report.md").read_text())
    assert [(runs[0] / name).read_bytes() for name in names] == before


def test_compare_prints_what_changed_and_writes_it(
    t2l: Any, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "changes.json"
    done = t2l("eval", "compare", *(run / "report.json" for run in runs), "-o", out)
    assert (done.code, done.err) == (0, "")
    assert "| matched | " in done.out
    assert "**-0.250 [-0.250, -0.250]** | 6/6 |" in done.out
    comparison = json.loads(out.read_text())
    assert comparison["conditions"]["matched"]["nll"]["mean"] == pytest.approx(-0.25)
    again = t2l("eval", "compare", *runs, "-o", out)
    assert (again.code, again.out, again.err.count("\n")) == (2, "", 1)
    assert "changes.json' exists already" in again.err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, "report.json' does not exist; check the path"),
        ({"version": 1}, "has version 1; this release reads 2; evaluate again"),
        ({"format": "other"}, "has format 'other'; 'text-to-lora report' is expected"),
    ],
)
def test_what_is_no_report_is_one_line(
    t2l: Any, runs: tuple[Path, Path], changed: Any, message: str
) -> None:
    path = runs[1] / "report.json"
    report = read_json(path)
    path.unlink()
    if changed is not None:
        write_json(path, {**report, **changed})
    done = t2l("eval", "compare", runs[0] / "report.json", path)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err


def test_a_folder_without_samples_is_one_line(t2l: Any, tmp_path: Path) -> None:
    done = t2l("eval", "report", tmp_path)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "run.json' does not exist" in done.err


def test_without_pyarrow_reports_alone_are_compared_and_samples_name_it(
    t2l: Any, runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, run in zip(("a.json", "b.json"), runs, strict=True):
        shutil.copy(run / "report.json", tmp_path / name)
    for module in ("pyarrow", "pyarrow.parquet", "matplotlib", "rouge_score"):
        monkeypatch.setitem(sys.modules, module, None)
    alone = t2l("eval", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert alone.code == 0
    assert "paired by task" in alone.out
    for arguments in (("compare", *runs), ("report", runs[0])):
        done = t2l("eval", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "this needs the package 'pyarrow'; pip install 'text-to-lora[eval]'" in done.err
