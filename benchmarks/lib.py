"""What benchmarks share: cells of results, and the machine and the command that made them."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from text_to_lora.files import read_finished, write_json
from text_to_lora.lora import LoraSpec, LoraWeights

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = str(Path(sys.executable).with_name("t2l"))

# Folders differ between machines; a cell names them by what they hold.
PLACEHOLDERS = {
    "--base": "BASE",
    "--data": "DIR",
    "--library": "LIBRARY",
    "--model": "MODEL",
    "--oracles": "ORACLES",
    "--out": "OUT",
    "--work": "WORK",
}


def parse(
    doc: str | None, name: str, *, threads: int | None = os.cpu_count()
) -> argparse.ArgumentParser:
    """A parser with --out for the result of this name, and --threads unless their default is None."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    add = parser.add_argument
    if threads is not None:
        add("--threads", type=int, default=threads, help=f"CPU threads (default {threads})")
    add("--out", type=Path, default=RESULTS / f"{name}.json", help="where the result goes")
    return parser


class Recorder:
    """Notes the command, the machine and the time from here on, and writes results down with them.

    facts: what else is noted of the machine, such as threads
    """

    def __init__(self, **facts: Any) -> None:
        self.machine = machine() | facts
        self._command, self._started = command(), time.perf_counter()

    def complete(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result with the command, the date, the machine and the seconds since the start."""
        return {
            "command": self._command,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": self.machine | {"load_average_1_min_after": round(os.getloadavg()[0], 2)},
            "seconds": round(time.perf_counter() - self._started, 1),
            **result,
        }

    def write(self, path: Path, result: Mapping[str, Any]) -> None:
        """Write a result down as `complete` gives it."""
        write_json(path, self.complete(result))


def make_cell(
    path: Path, make: Callable[[], dict[str, Any]], *, identity: Mapping[str, Any], threads: int
) -> dict[str, Any]:
    """A cell from its file, or made and written down with what it depends on.

    Raises ConfigError when the file is of other settings.
    """
    cell = read_finished(path, identity)
    if cell is not None:
        print(f"{path.stem}: finished before", flush=True)
        return cell
    recorder = Recorder(threads=threads)
    cell = {**identity, "cell": path.stem, **recorder.complete(make())}
    write_json(path, cell)
    print(f"{path.stem}: {cell['seconds']:.0f} s", flush=True)
    return cell


def machine() -> dict[str, Any]:
    """What the times depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def command() -> str:
    """This run as it would be typed at the root of the repository, folders of this machine left out."""
    arguments = sys.argv[1:]
    for place, argument in enumerate(arguments[:-1]):
        if argument in PLACEHOLDERS:
            arguments[place + 1] = PLACEHOLDERS[argument]
    script = Path(sys.argv[0])
    module = f"benchmarks.{script.parent.name}.{script.stem}"
    return shlex.join(["python", "-m", module, *arguments])


def run_alone(threads: int, run: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a fresh process of so many CPU threads; gives its result."""
    set_threads = torch.set_num_threads
    with ProcessPoolExecutor(1, get_context("spawn"), set_threads, (threads,)) as pool:
        return pool.submit(run, *arguments).result()


def time_process(*command: str) -> tuple[float, int]:
    """Wall seconds and peak memory, in bytes, of a command in a fresh process.

    Raises SystemExit when it fails.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{shlex.join(command)} ended with status {status}")
    return time.perf_counter() - started, 1024 * usage.ru_maxrss


def import_from_tests(module: str) -> Any:
    """A module of the folder of tests: studies run on the tiny models that the tests have."""
    sys.path.append(str(ROOT / "tests"))
    return import_module(module)


def random_adapters(
    spec: LoraSpec, count: int, seed: int = 0, *, scale: float = 1.0, **options: Any
) -> LoraWeights:
    """So many adapters of random numbers.

    scale: standard deviation of the numbers; options: dtype and device, as torch takes them
    """
    generator = torch.Generator(options.get("device", "cpu")).manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return scale * torch.randn(count, *shape, generator=generator, **options)

    return LoraWeights(
        spec,
        {g.key: draw(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


def memory_bytes(field: str) -> int:
    """A size of this process as /proc/self/status has it: VmRSS, VmHWM or RssAnon. Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def reset_peak() -> int:
    """Measure VmHWM, the largest memory of this process, anew; gives the memory now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")
