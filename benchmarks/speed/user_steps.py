"""Seconds and memory of what a user does with the default base, each in a fresh process.

    python -m benchmarks.speed.user_steps [--refine-seconds 60]

Memory is the largest resident set of the process. The base is in the cache already.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.lib import PROGRAM, Recorder, parse, time_process

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
            seconds, memory = time_process(PROGRAM, *arguments)
            results[name] = {
                "seconds": round(seconds, 1),
                "peak_memory_gib": round(memory / 2**30, 2),
            }
            print(name, results[name], flush=True)
    recorder.write(options.out, {"steps": results})


if __name__ == "__main__":
    main()
