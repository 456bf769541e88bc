"""Seconds and memory of what a user does with the default base, each in a fresh process.

    python -m benchmarks.speed.user_steps [--refine-seconds 60]

Memory is the largest resident set of the process. The base is in the cache already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lib import Recorder, parse
from text_to_lora.files import write_json

SENTENCE = "Decide whether a mail asks for a refund; answer yes or no"
INPUT = "The kettle leaks, I want my money back."
ROWS = "input,output\n" + "".join(
    f"{text},{answer}\n"
    for item in ("kettle", "lamp", "chair", "radio", "blender", "tent", "clock", "bag")
    for text, answer in (
        (f"The {item} is broken and I want my money back.", "yes"),
        (f"How do I clean the {item}?", "no"),
    )
)


def time_step(arguments: list[str]) -> dict[str, float]:
    """Wall seconds and peak memory of one command of the program."""
    program = str(Path(sys.executable).with_name("t2l"))
    started = time.perf_counter()
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"t2l {arguments[0]} ended with status {status}")
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2)}


def main() -> None:
    """Time every step, print it and write it down."""
    parser = parse(__doc__, "user_steps", threads=None)
    parser.add_argument("--refine-seconds", type=int, default=60, help="of t2l refine")
    options = parser.parse_args()
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, adapter = folder / "rows.csv", str(folder / "adapter")
        rows.write_text(ROWS, encoding="utf-8")
        limit = ["--seconds", str(options.refine_seconds)]
        steps = {
            "generate": ["generate", SENTENCE, "-o", adapter],
            "run": ["run", SENTENCE, "--input", INPUT],
            "refine": ["refine", SENTENCE, "--rows", str(rows), *limit, "-o", f"{adapter}-2"],
            "export": ["export", adapter, "--to", "gguf", "-o", f"{adapter}.gguf"],
            "merge": ["merge", adapter, "-o", str(folder / "merged")],
            "demo": ["demo"],
        }
        results = {}
        for name, arguments in steps.items():
            results[name] = time_step(arguments)
            print(name, results[name], flush=True)
    write_json(options.out, recorder.complete({"steps": results}))


if __name__ == "__main__":
    main()
