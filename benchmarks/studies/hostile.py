"""What the readers do with damaged files: one line for the user, nothing half written, nothing run.

    python -m benchmarks.studies.hostile --files 10000 --seed 0

A seeded generator takes a tiny file of every format that the package reads, damages it in one way, and
hands it to the reader. Every fault is counted by its kind; the first of each kind are written down.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.lib import Recorder, memory_bytes, parse, reset_peak
from benchmarks.studies.hostile_damage import damage
from benchmarks.studies.hostile_files import Format, make_formats
from text_to_lora.errors import T2LError

MAX_SECONDS = 5.0
EXTRA_BYTES = 128 << 20
"""A call may take twice the size of its input, and this."""
LONGEST_MESSAGE = 3000
SHOWN = 40  # faults that the result names


class _TooSlowError(BaseException):
    """Ends a call that takes longer than MAX_SECONDS."""


def run(files: int, seed: int, work: Path) -> dict[str, Any]:
    """Damage and read so many files.

    work: an empty folder
    """
    formats = make_formats(work / "whole")
    of_format, ways, outcomes, faults = (Counter[str]() for _ in range(4))
    shown: list[dict[str, Any]] = []
    longest, most = 0.0, 0
    for number in range(files):
        rng = random.Random(f"{seed}:{number}")
        name = rng.choice(list(formats))
        source = work / "damaged"  # a copy of the format's files of which one is damaged
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(work / "whole" / name, source)
        way = damage(source / rng.choice(formats[name].files), rng, work / "executed")
        of_format[name] += 1
        ways[way] += 1
        for place, _ in enumerate(formats[name].calls):
            outcome = judge(formats[name], place, source, work)
            outcomes[outcome["outcome"]] += 1
            longest = max(longest, outcome["seconds"])
            most = max(most, outcome["bytes_over_twice_the_input"])
            faults.update(outcome["faults"])
            if any(outcome["faults"].values()) and len(shown) < SHOWN:
                shown.append({"number": number, "format": name, "way": way, **outcome})
    return {
        "files": files,
        "seed": seed,
        "faults": dict(faults),
        "calls": dict(sorted(outcomes.items())),
        "longest_call_seconds": longest,
        "most_bytes_over_twice_the_input": most,
        "files_of_format": dict(sorted(of_format.items())),
        "files_of_way": dict(sorted(ways.items())),
        "shown": shown,
    }


def judge(known: Format, place: int, source: Path, work: Path) -> dict[str, Any]:
    """Read damaged files by one call; say of every fault whether it happened."""
    output = work / "output" / "made"
    shutil.rmtree(output.parent, ignore_errors=True)
    output.mkdir(parents=True)
    before, message = _listing(source), ""
    started, memory = time.perf_counter(), reset_peak()
    outcome = "read"
    try:
        with warnings.catch_warnings(), _time_limit():
            warnings.simplefilter("ignore")
            known.calls[place](source, output)
    except T2LError as error:
        outcome, message = "refused", str(error)
    except _TooSlowError:
        outcome = "ended after the time limit"
    except Exception:
        outcome, message = "traceback", traceback.format_exc()
    seconds = time.perf_counter() - started
    over = memory_bytes("VmHWM") - memory - 2 * sum(size for size, _ in before.values())
    written = [path for path in output.rglob("*") if path.suffix != ".lock"]
    half_written = [p for p in written if outcome != "read" or p.name.startswith(".")]
    faults = {
        "traceback": outcome == "traceback",
        "message of several lines": outcome == "refused" and len(message.splitlines()) > 1,
        "message too long": outcome == "refused" and len(message) > LONGEST_MESSAGE,
        "half-written output": bool(half_written),
        "input changed": _listing(source) != before,
        "code executed": (work / "executed").exists(),
        "too slow": seconds > MAX_SECONDS,
        "too much memory": over > EXTRA_BYTES,
    }
    (work / "executed").unlink(missing_ok=True)
    return {
        "outcome": outcome,
        "faults": faults,
        "message": message[-400:],
        "seconds": round(seconds, 2),
        "bytes_over_twice_the_input": over,
    }


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change of everything below a folder; links are not followed."""
    states = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}


@contextmanager
def _time_limit() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise _TooSlowError

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS + 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def main() -> None:
    parser = parse(__doc__, "hostile", threads=None)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as work:
        result = run(arguments.files, arguments.seed, Path(work))
    recorder.write(arguments.out, result)
    print(json.dumps(result["faults"], indent=2))


if __name__ == "__main__":
    main()
