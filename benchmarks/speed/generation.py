"""Time of generating adapters at the shapes of Mistral-7B: embeddings to LoraWeights.

    python -m benchmarks.speed.generation [--rounds 7] [--threads 2]

Architecture L with random weights, 1024-d task embeddings, no base model, on the CPU. All cases run
in alternation with products of two square fp32 matrices (and bfloat16 ones), so that what disturbs
one disturbs the others; ratios are taken within a round, then their median. One description: the
mean of several passes after each other.

To reach: at 64 descriptions in fp32 60% of the machine's fp32 rate, in bfloat16 five times the
adapters per second of fp32 one at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.lib import Recorder, parse
from benchmarks.speed.cost import EMBEDDING_DIM, mistral_spec
from text_to_lora.analysis.cost import count
from text_to_lora.hypernet import HypernetConfig, Hypernetwork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {1: 8, 64: 1}  # passes a round, by the number of descriptions
MOST = max(PASSES)
SQUARE = 2048  # side of the matrices whose product gives the machine's rate
PRODUCT = 0  # the case of this product, which takes no description
TARGETS = {"fraction_of_fp32_rate_at_64": 0.6, "bf16_at_64_over_fp32_at_1": 5.0}


def make_hypernet(dtype: torch.dtype) -> Hypernetwork:
    """Architecture L, every number random."""
    config = HypernetConfig(head="joint", embedding_dim=EMBEDDING_DIM)
    generator = torch.Generator().manual_seed(0)
    hypernet = Hypernetwork.from_config(config, mistral_spec(), generator, as_lora=False)
    return hypernet.to(dtype).eval()


def seconds(run: Callable[[], object], passes: int = 1) -> float:
    """Time of one of several runs after each other."""
    start = time.perf_counter()
    for _ in range(passes):
        run()
    return (time.perf_counter() - start) / passes


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of every case and of square products, in alternation, and what follows from them."""
    hypernets = {name: make_hypernet(dtype) for name, dtype in DTYPES.items()}
    flops = count(lambda: hypernets["float32"](torch.zeros(1, EMBEDDING_DIM)))
    embeddings = torch.randn(MOST, EMBEDDING_DIM)
    cases: dict[tuple[str, int], tuple[Callable[[], object], int]] = {}
    for name, dtype in DTYPES.items():
        left, right, out = (torch.randn(SQUARE, SQUARE).to(dtype) for _ in range(3))
        cases[name, PRODUCT] = partial(torch.mm, left, right, out=out), 3
        for n, passes in PASSES.items():
            cases[name, n] = partial(hypernets[name], embeddings[:n]), passes
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for number in range(rounds + 1):  # the first warms up
        for case, (run, passes) in cases.items():
            value = seconds(run, passes)
            if number:
                times[case].append(value)
    medians = {case: statistics.median(values) for case, values in times.items()}
    share = MOST * flops / (2 * SQUARE**3)  # of the operations of a square product
    fractions = [
        share * product / many
        for product, many in zip(times["float32", PRODUCT], times["float32", MOST], strict=True)
    ]
    ratios = [
        MOST * single / many
        for single, many in zip(times["float32", 1], times["bfloat16", MOST], strict=True)
    ]
    return {
        "gflop_per_adapter": round(flops / 1e9, 3),
        "median_s": {name: {str(n): round(medians[name, n], 4) for n in PASSES} for name in DTYPES},
        "fraction_of_fp32_rate_at_64": round(statistics.median(fractions), 3),
        "bf16_at_64_over_fp32_at_1": round(statistics.median(ratios), 2),
    }


def main() -> None:
    """Measure, print the result and write it down."""
    parser = parse(__doc__, "generation")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    if (load := recorder.machine["load_average_1_min"]) > 0.5:
        print(f"load average {load}: other work disturbs the figures; wait until it is idle")
    with torch.no_grad():
        times = measure(options.rounds)
    targets = {k: {"to_reach": target, "found": times[k]} for k, target in TARGETS.items()}
    recorder.write(options.out, {"time": {"cpu": times}, "targets": targets})
    print(targets)


if __name__ == "__main__":
    main()
