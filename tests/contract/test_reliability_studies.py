"""The studies of killed runs and of endurance, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.studies.crash import Job, make_jobs, study
from benchmarks.studies.endurance import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes")


def test_a_killed_command_is_repeated_to_the_same_bytes(tmp_path: Path) -> None:
    (job,) = (job for job in make_jobs(tmp_path) if job.name == "library add")
    result = study(job, tmp_path, moments=4, seed=1)
    assert result["faults"] == []
    assert result["files_compared"] == 2
    assert result["counts"]["killed"] >= 2


def test_a_command_that_does_not_go_on_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_twice() -> None:
        file = tmp_path / "out" / "file"
        file.parent.mkdir(exist_ok=True)
        text = file.read_text() if file.exists() else ""
        file.write_text(f"{text}one\n")
        (file.parent / "other").write_text("two")

    monkeypatch.setattr("benchmarks.studies.crash.t2l", write_twice)
    result = study(Job("twice", ()), tmp_path, moments=16, seed=0)
    assert result["faults"] and json.dumps(result["faults"]).count("file") > 0


def test_neither_calls_nor_adapters_take_more_and_more(tmp_path: Path) -> None:
    result = run(tmp_path, calls=40, blocks=20, adapters=200, reads=50)
    assert result["generate"]["growth_mib"] < 8 and result["adapted"]["growth_mib"] < 8
    assert result["adapted"]["hooks_left"] == 0
    assert result["library"]["within"]
