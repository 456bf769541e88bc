"""Run every experiment on a library, several processes at once, and write the page of results.

    python benchmarks/library/run_all.py --library LIBRARY --data DIR --multitask MULTITASK

Each process has one thread: two of them on two cores do more than one of two threads. What is
finished is kept, so that the command may be stopped and given again. Options that are not named here
go to every script of experiments (as --rows would).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scaling import FEW_SIZES, SIZES, list_cells
from table1 import CELLS, REFERENCES

FOLDER = Path(__file__).parent

# Minutes of a process on one core of an AMD EPYC: 0.11, 0.13 and 0.17 s a step of 16 adapters, 19 rows
# and 50 descriptions a second, start included.
MINUTES = {"L": 2.6, "M": 3.0, "S": 3.6, "references": 1.3, "mean": 0.5}
NINE_OF = 0.65  # a step has 9 adapters in table1.py, 16 in scaling.py
ORACLES = 9.0
SIMILARITY = 3.0

Job = tuple[float, list[str]]
"""Expected minutes, and a script with its arguments."""


def stages(multitask: Path | None) -> list[list[Job]]:
    """Jobs that may run at once; those of a stage wait for the stages before."""
    shared = ["--multitask", str(multitask)] if multitask else []
    first: list[Job] = [
        (MINUTES["references"], ["table1.py", "--cells", ",".join(REFERENCES)]),
        (MINUTES["references"], ["scaling.py", "--cells", "oracle,base"]),
    ]
    means = [name for name in list_cells([*SIZES], [*FEW_SIZES]) if name.startswith("mean-")]
    second: list[Job] = [
        (MINUTES["mean"] * len(means), ["scaling.py", "--cells", ",".join(means)]),
        (ORACLES, ["oracles.py", *shared]),
        (SIMILARITY, ["similarity.py"]),
    ]
    for script, cells, share in (
        ("scaling.py", list_cells([*SIZES], [*FEW_SIZES]), 1.0),
        ("table1.py", list(CELLS), NINE_OF),
    ):
        second += [
            (share * MINUTES[name[0]], [script, "--cells", name])
            for name in cells
            if name[:2] in ("L-", "M-", "S-")
        ]
    return [first, sorted(second, key=lambda job: -job[0])]


def run(jobs: Sequence[Job], arguments: Sequence[str], processes: int) -> list[str]:
    """Run jobs, so many at once, in order; give the lines of those that failed."""
    waiting, running, failed = list(jobs), [], []
    while waiting or running:
        while waiting and len(running) < processes:
            _, job = waiting.pop(0)
            command = [sys.executable, str(FOLDER / job[0]), *job[1:], *arguments]
            running.append((subprocess.Popen(command), " ".join(job)))
        for process, line in running.copy():
            if process.poll() is not None:
                running.remove((process, line))
                if process.returncode:
                    failed.append(line)
        time.sleep(0.5)
    return failed


def main() -> None:
    """Run what is not finished."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="folder of the library")
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--multitask", type=Path, help="PEFT folder of the multi-task adapter")
    parser.add_argument("--processes", type=int, default=2, help="at once (default 2)")
    parser.add_argument("--dry-run", action="store_true", help="print the jobs and their minutes")
    options, others = parser.parse_known_args()
    arguments = ["--library", str(options.library), "--data", str(options.data), *others]
    planned = stages(options.multitask)
    for minutes, job in (job for stage in planned for job in stage):
        print(f"{minutes:5.1f} min  {' '.join(job)}")
    total = sum(minutes for stage in planned for minutes, _ in stage)
    print(
        f"about {total / options.processes:.0f} min with {options.processes} processes", flush=True
    )
    if options.dry_run:
        return
    failed = [line for stage in planned for line in run(stage, arguments, options.processes)]
    if failed:
        raise SystemExit("failed: " + "; ".join(failed))
    subprocess.run([sys.executable, str(FOLDER / "results.py")], check=True)


if __name__ == "__main__":
    main()
