"""A full disk and a folder that cannot be written: one line, nothing lost, and a later run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.studies.crash import Job, make_jobs, read_output, run_job

BALLAST = "ballast"
SMALL = 1 << 16
"""Bytes of an output of a few pages, half of which may do."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def jobs(work: Path) -> dict[str, Job]:
    """A command for each sort of output."""
    jobs, out = make_jobs(work), work / "out"
    adapter = str(min((work / "adapters").iterdir()))
    base = ("--base", str(work / "base"))
    jobs += [
        Job(f"export {name}", ("export", adapter, "--to", name, "-o", f"{out}/e"))
        for name in ("mlx", "gguf")
    ]
    jobs += [
        Job("merge", ("merge", adapter, "-o", f"{out}/merged", *base)),
        Job(
            "library export", ("library", "export", str(work / "library"), "-o", f"{out}/exported")
        ),
        Job(
            "generate one",
            ("generate", "Say red.", "-m", str(work / "hypernet"), "-o", f"{out}/one"),
        ),
    ]
    return {job.name: job for job in jobs}


NAMES = (
    "sft",
    "reconstruct",
    "adapters",
    "library add",
    "generate",
    "eval suite",
    "export mlx",
    "export gguf",
    "merge",
    "library export",
    "generate one",
)


@pytest.fixture
def disk(work: Path) -> Iterator[Path]:
    """A small disk in the place of the output folder."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(out)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a disk")
    try:
        yield out
    finally:
        subprocess.run(["umount", str(out)], check=True)


def room_of(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_bavail * state.f_frsize


def refusal(work: Path) -> str:
    """The last line that a command printed; there is no traceback before it."""
    text = (work / "log").read_text()
    assert "Traceback" not in text, text
    return text.splitlines()[-1]


def names(work: Path) -> set[str]:
    return set(read_output(work)) - {BALLAST}


def clear(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line_and_the_command_goes_on_when_there_is_room(
    name: str, jobs: dict[str, Job], disk: Path, work: Path
) -> None:
    job = jobs[name]
    assert run_job(job, work).status == 0, refusal(work)
    expected = names(work)
    used = (8 << 20) - room_of(disk)
    clear(disk)
    for room in {0, used // 2} if used > SMALL else {0}:
        (disk / BALLAST).write_bytes(bytes(room_of(disk) - room))
        assert run_job(job, work).status == 2, (work / "log").read_text()
        assert "no space left on the disk of" in refusal(work)
        assert not any(
            path.name.startswith(".") and path.name != ".lock" for path in disk.rglob("*")
        )
        (disk / BALLAST).unlink()
    assert run_job(job, work).status == 0, refusal(work)
    assert names(work) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_cannot_be_written_is_one_line(
    name: str, jobs: dict[str, Job], disk: Path, work: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert run_job(jobs[name], work).status == 2, (work / "log").read_text()
    assert "Read-only file system" in refusal(work)
