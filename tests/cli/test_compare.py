"""t2l eval compare and t2l eval report on made-up samples."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_up_samples import SETTINGS, draw, make_sample, write_run
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


def test_both_readers_stand_in_the_report_and_beside_the_paper(t2l: Any, tmp_path: Path) -> None:
    answers = [("B", "B", 1.0), ("I think B.", "B", 0.0), ("Answer: A", "C", 0.0)]
    rows = [
        make_sample(
            "mine.arc_easy",
            idx,
            1.0,
            metric="classification",
            answer=answer,
            outputs=(right,),
            reference=right,
            score=score,
        )
        for idx, (answer, right, score) in enumerate(answers, start=5)
    ]
    labels = {"mine.arc_easy": {"labels": ["A", "B", "C", "D"]}}
    folder = write_run(tmp_path, {"base": rows}, settings=SETTINGS | {"whole_answers": True})
    run = json.loads((folder / "run.json").read_text())
    run["settings"]["tasks"] = labels
    (folder / "run.json").write_text(json.dumps(run))
    done = t2l("eval", "report", folder, "--compare-paper")
    assert (done.code, done.err) == (0, "")
    # Correctly read two of three; the reference takes "I" and the first letter of "Answer".
    assert "| base | 1 | 3 | 0.333 | 0.667 | 0.333 | +0.333 |" in done.out
    assert "were cut" not in done.out
    assert "| ARC-e | 3 | 2376 | here 3 rows of mine.arc_easy, in the paper " in done.out
    assert "33.3 / " in done.out
    unknown = t2l("eval", "report", folder, "--compare-paper", "--paper-table", "table9")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "unknown table 'table9' of the paper; choose among table1, table2" in unknown.err


def test_a_report_without_benchmarks_is_not_set_beside_the_paper(
    t2l: Any, runs: tuple[Path, Path]
) -> None:
    done = t2l("eval", "report", runs[0], "--compare-paper")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "no task of this report is a benchmark of the paper" in done.err


def test_compare_prints_what_changed_and_writes_it(
    t2l: Any, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "changes.json"
    done = t2l("eval", "compare", *(run / "report.json" for run in runs), "-o", out)
    assert (done.code, done.err) == (0, "")
    assert "| matched | " in done.out
    assert "**-0.250 [-0.250, -0.250]** | 6/6 |" in done.out
    found = json.loads(out.read_text())
    assert found["conditions"]["matched"]["nll"]["mean"] == pytest.approx(-0.25)
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
