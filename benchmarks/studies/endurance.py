"""Memory and time that do not grow: many calls in one process, many adapters in one library.

    python -m benchmarks.studies.endurance

2,000 calls of `generate` with one hypernetwork, and 200 `adapted()` blocks on one model: their time
and the memory of the process in the first and in the last tenth of the calls. A library of 10,000
adapters: the seconds to write it, to open it and to read 1,000 adapters at random, and the memory
that is taken.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import Recorder, memory_bytes, parse, random_adapters
from benchmarks.studies.crash import make_jobs
from text_to_lora.generate import TextToLora
from text_to_lora.library.library import LibraryEntry, load_library, write_library
from text_to_lora.lora import LoraSpec, adapted

GROWTH_MIB = 32.0
"""Most memory that the process may take between the first and the last tenth of the calls."""
SLOWER = 1.5
"""Most times longer that a call may take in the last tenth than in the first, in the median."""
LIBRARY_BOUNDS = {"open_seconds": 60.0, "read_seconds": 0.05, "memory_of_library": 1.5}
"""Seconds to open a library of 10,000 adapters and to read one; memory as a share of the file."""


def resident_mib() -> float:
    """Memory of this process that is its own, in MiB; pages of files that are mapped do not count."""
    return memory_bytes("RssAnon") / 2**20


def repeat(call: Callable[[int], object], count: int) -> dict[str, Any]:
    """Call something many times; compare the first and the last tenth."""
    tenth = max(count // 10, 1)
    seconds, memory = [], []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - started)
        memory.append(resident_mib())
    first, last = statistics.median(seconds[:tenth]), statistics.median(seconds[-tenth:])
    growth = statistics.median(memory[-tenth:]) - statistics.median(memory[:tenth])
    return {
        "calls": count,
        "first_ms": round(1000 * first, 2),
        "last_ms": round(1000 * last, 2),
        "growth_mib": round(growth, 2),
        "within": growth <= GROWTH_MIB and last <= SLOWER * first,
    }


def repeat_blocks(t2l: TextToLora, count: int) -> dict[str, Any]:
    """Run a model under `adapted()` many times; it has no hook afterwards."""
    model, weights = t2l.base[0], t2l.generate(["Say red.", "Say blue."]).weights
    ids = torch.tensor([[5, 6, 7, 8]])

    def block(number: int) -> None:
        with torch.no_grad(), adapted(model, weights, [number % weights.num_adapters]):
            model(ids)

    result = repeat(block, count)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return result | {"hooks_left": hooks, "within": result["within"] and hooks == 0}


def large_library(spec: LoraSpec, path: Path, count: int, reads: int) -> dict[str, Any]:
    """Write, open and read a library of many random adapters."""
    entries = [LibraryEntry(f"task-{number}", (f"Do {number}.",)) for number in range(count)]
    adapters = (random_adapters(spec, 1, number) for number in range(count))
    started = time.perf_counter()
    write_library(path, spec, entries, adapters, dtype=torch.float32)
    written, before = time.perf_counter(), resident_mib()
    library = load_library(path)
    opened, rng = time.perf_counter(), random.Random(0)
    for _ in range(reads):
        library.adapter(f"task-{rng.randrange(count)}").check_finite()
    read = (time.perf_counter() - opened) / reads
    size_mib = sum(file.stat().st_size for file in path.iterdir()) / 2**20
    taken = resident_mib() - before
    bounds = LIBRARY_BOUNDS
    return {
        "adapters": count,
        "size_mib": round(size_mib, 1),
        "write_seconds": round(written - started, 2),
        "open_seconds": round(opened - written, 2),
        "reads": reads,
        "read_seconds": round(read, 6),
        "memory_mib": round(taken, 1),
        "within": opened - written <= bounds["open_seconds"]
        and read <= bounds["read_seconds"]
        and taken <= bounds["memory_of_library"] * size_mib,
    }


def run(work: Path, *, calls: int, blocks: int, adapters: int, reads: int) -> dict[str, Any]:
    """All three measurements; work: an empty folder."""
    make_jobs(work)  # writes the tiny base and hypernetwork
    t2l = TextToLora.from_pretrained(work / "hypernet")
    return {
        "generate": repeat(lambda number: t2l.generate([f"Say {number}."]), calls),
        "adapted": repeat_blocks(t2l, blocks),
        "library": large_library(t2l.spec, work / "large", adapters, reads),
    }


def main() -> None:
    """Measure and write the result; the exit status is 1 where a bound is exceeded."""
    options = parse(__doc__, "endurance", threads=1).parse_args()
    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), calls=2000, blocks=200, adapters=10_000, reads=1000)
    bounds = {"growth_mib": GROWTH_MIB, "slower": SLOWER, **LIBRARY_BOUNDS}
    recorder.write(options.out, {**result, "bounds": bounds})
    print(result, flush=True)
    raise SystemExit(0 if all(part["within"] for part in result.values()) else 1)


if __name__ == "__main__":
    main()
