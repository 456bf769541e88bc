"""Cells: figures that are made once, each a JSON file that says what made it, when and on what."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cold_generate import machine
from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json, write_json

__all__ = ["command", "machine", "make_cell"]

# Folders differ between machines; a cell names them by what they hold.
PLACEHOLDERS = {
    "--base": "BASE",
    "--data": "DIR",
    "--hyperdecoder": "HYPERDECODER",
    "--library": "LIBRARY",
    "--model": "MODEL",
    "--multitask": "MULTITASK",
    "--multitask-run": "RUN",
    "--oracle": "ORACLE",
    "--out": "OUT",
    "--plots": "PLOTS",
    "--run": "RUN",
    "--suite": "SUITE",
    "--work": "WORK",
}


def make_cell(
    path: Path,
    make: Callable[[], dict[str, Any]],
    *,
    identity: Mapping[str, Any],
    threads: int,
) -> dict[str, Any]:
    """A cell from its file, or made and written down with what it depends on.

    Raises ConfigError when the file is of other settings.
    """
    if path.exists():
        cell: dict[str, Any] = read_json(path)
        for field, value in identity.items():
            if cell.get(field) != value:
                raise ConfigError(
                    f"{str(path)!r} has {field} {cell.get(field)!r}, this run {value!r}; "
                    "delete it or choose another --out"
                )
        print(f"{path.stem}: finished before", flush=True)
        return cell
    before, started = machine() | {"threads": threads}, time.perf_counter()
    made = make()
    cell = {
        **identity,
        "cell": path.stem,
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": before | {"load_average_1_min_after": round(os.getloadavg()[0], 2)},
        "seconds": round(time.perf_counter() - started, 1),
        **made,
    }
    write_json(path, cell)
    print(f"{path.stem}: {cell['seconds']:.0f} s", flush=True)
    return cell


def command() -> str:
    """This run as it would be typed at the root of the repository, folders of this machine left out."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--inside"]
    if arguments[-1:] and arguments[-1].startswith("--cells=") and "--cells" in arguments:
        place = arguments.index("--cells")  # of the run that made this process for one of them
        del arguments[place : place + 2]
    for place, argument in enumerate(arguments[:-1]):
        if argument in PLACEHOLDERS:
            arguments[place + 1] = PLACEHOLDERS[argument]
    script = Path(sys.argv[0])
    return shlex.join(["python", f"benchmarks/{script.parent.name}/{script.name}", *arguments])
