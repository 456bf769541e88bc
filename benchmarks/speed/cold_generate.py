"""Time a sentence to an adapter: in a fresh process, and in one that has made adapters before.

    python -m benchmarks.speed.cold_generate [--runs 7]

A fresh `t2l generate` of the default hypernetwork alternates with a fresh process that imports torch,
transformers and sentence-transformers and loads the same text encoder with them, after one untimed run
of each that fills the disk's cache. Warm: `TextToLora.generate` of one sentence after another.
To reach: cold at most 0.4 of the other process, warm at most 25 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.lib import PROGRAM, Recorder, parse, time_process
from text_to_lora import TextToLora
from text_to_lora.encoders.minilm import package_folder

DESCRIPTION = "Classify the sentiment of the review as positive or negative."
TO_REACH = {"cold_ratio": 0.4, "warm_s": 0.025}

LOAD_ENCODER = """
import sys, torch, transformers
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1])
"""


def time_warm(runs: int) -> float:
    """Median wall time of one sentence to an adapter in memory, in seconds."""
    t2l = TextToLora.from_pretrained("embedded")
    times = []
    for run in range(runs + 2):
        start = time.perf_counter()
        t2l.generate([f"{DESCRIPTION} Review {run}."])
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "cold_generate")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each (default 7)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = (sys.executable, "-c", LOAD_ENCODER, str(package_folder()))
    recorder = Recorder(threads=options.threads)
    cold, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            output = str(Path(folder) / str(run))
            cold.append(time_process(PROGRAM, "generate", DESCRIPTION, "-o", output)[0])
            loads.append(time_process(*load)[0])
    cold_s, load_s = statistics.median(cold[1:]), statistics.median(loads[1:])
    result = {
        "cold_s": round(cold_s, 3),
        "load_encoder_s": round(load_s, 3),
        "cold_ratio": round(cold_s / load_s, 3),
        "warm_s": round(time_warm(options.runs), 4),
        "to_reach": TO_REACH,
    }
    print(result)
    recorder.write(options.out, result)


if __name__ == "__main__":
    main()
