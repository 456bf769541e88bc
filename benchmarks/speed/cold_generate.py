"""Time a cold `t2l generate` against a process that only loads the text encoder and encodes once.

    python -m benchmarks.speed.cold_generate [--model DIR] [--runs 7]

Fresh processes in alternation, after one untimed run of each that fills the disk's cache. The
second process loads the files of the same encoder through transformers' AutoModel.
To reach: the median of the first is at most 1.25 times that of the second.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lib import Recorder, parse
from text_to_lora.encoders.minilm import package_folder
from text_to_lora.files import write_json

DESCRIPTION = "Classify the sentiment of the review as positive or negative."
TARGET = 1.25

ENCODE_ONCE = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
folder, text = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
with torch.no_grad():
    model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
"""


def seconds(command: list[str]) -> float:
    """Wall time of a fresh process.

    Raises SystemExit with its output when it fails.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} exited with {done.returncode}:\n{done.stderr}")
    return elapsed


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "cold_generate", threads=None)
    parser.add_argument("--model", help="hypernetwork folder; default: the embedded one")
    parser.add_argument("--encoder", default=str(package_folder()), help="its encoder's folder")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each (default 7)")
    parser.add_argument(
        "--t2l",
        default=shlex.quote(str(Path(sys.executable).with_name("t2l"))),
        help="the command line under test; default: beside this Python",
    )
    options = parser.parse_args()

    generate = [*shlex.split(options.t2l), "generate", DESCRIPTION]
    if options.model:
        generate += ["--model", options.model]
    encode = [sys.executable, "-c", ENCODE_ONCE, options.encoder, DESCRIPTION]
    recorder = Recorder()
    times: dict[str, list[float]] = {"t2l_generate": [], "encode_once": []}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            generated = seconds([*generate, "-o", str(Path(folder) / str(run))])
            encoded = seconds(encode)
            if run:
                times["t2l_generate"].append(generated)
                times["encode_once"].append(encoded)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["t2l_generate"] / medians["encode_once"]
    result = {
        "median_s": {name: round(value, 3) for name, value in medians.items()},
        "ratio": round(ratio, 3),
        "target_ratio": TARGET,
        "times_s": {name: [round(value, 3) for value in values] for name, values in times.items()},
    }
    write_json(options.out, recorder.complete(result))
    print(
        f"t2l generate {medians['t2l_generate']:.2f} s, load and encode once "
        f"{medians['encode_once']:.2f} s (medians of {options.runs}): ratio {ratio:.2f}, "
        f"to reach {TARGET}"
    )


if __name__ == "__main__":
    main()
