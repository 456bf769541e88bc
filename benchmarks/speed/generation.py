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
from text_to_lora.analysis.cost import count
from text_to_lora.files import write_json
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {1: 8, 8: 2, 64: 1}  # passes a round, by the number of descriptions
MOST = max(PASSES)
EMBEDDING_DIM = 1024  # gte-large-en-v1.5
SQUARE = 2048  # side of the matrices whose product gives the machine's rate
TARGETS = {"fraction_of_fp32_rate_at_64": 0.6, "bf16_at_64_over_fp32_at_1": 5.0}


def mistral_spec() -> LoraSpec:
    """Rank 8 on q_proj and v_proj of Mistral-7B; by hand, so that transformers is not loaded."""
    shapes = {"self_attn.q_proj": 4096, "self_attn.v_proj": 1024}
    slots = [Slot(i, module, 4096, out) for i in range(32) for module, out in shapes.items()]
    base = BaseModelRef("mistralai/Mistral-7B-Instruct-v0.2", None, "", "mistral")
    return LoraSpec(base, "model.layers", 32, 8, 16.0, True, tuple(make_groups(slots)))


def make_hypernet(spec: LoraSpec, dtype: torch.dtype) -> Hypernetwork:
    """Architecture L, every number random, made in its dtype at once."""
    hypernet = Hypernetwork.empty(HypernetConfig(head="joint", embedding_dim=EMBEDDING_DIM), spec)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in hypernet.state_dict().items():
        bound = tensor.shape[-1] ** -0.5
        filled = torch.empty(tensor.shape, dtype=dtype)
        state[name] = filled.uniform_(-bound, bound, generator=generator)
        if tensor.ndim == 1 and "head" not in name and name.endswith("weight"):
            state[name].add_(1)  # LayerNorm
    hypernet.load_state_dict(state, assign=True)
    return hypernet.eval().requires_grad_(False)


def seconds(run: Callable[[], object], passes: int = 1) -> float:
    """Time of one of several runs after each other."""
    start = time.perf_counter()
    for _ in range(passes):
        run()
    return (time.perf_counter() - start) / passes


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of every case and of square products, all rounds, in alternation."""
    spec = mistral_spec()
    hypernets = {name: make_hypernet(spec, dtype) for name, dtype in DTYPES.items()}
    flops = count(lambda: hypernets["float32"](torch.zeros(1, EMBEDDING_DIM)))
    embeddings = torch.randn(MOST, EMBEDDING_DIM)
    squares = {
        name: [torch.randn(SQUARE, SQUARE).to(dtype) for _ in range(3)]
        for name, dtype in DTYPES.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in DTYPES}
    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in PASSES} for name in DTYPES}
    for number in range(rounds + 1):  # the first warms up
        for name, hypernet in hypernets.items():
            left, right, out = squares[name]
            product = seconds(partial(torch.mm, left, right, out=out), 3)
            case_times = {
                n: seconds(partial(hypernet, embeddings[:n]), passes)
                for n, passes in PASSES.items()
            }
            if number:
                rates[name].append(2 * SQUARE**3 / product)
                for n, value in case_times.items():
                    times[name][n].append(value)
    many, single = times["float32"][MOST], times["float32"][1]
    fractions = [MOST * flops / s / r for s, r in zip(many, rates["float32"], strict=True)]
    ratios = [MOST * one / s for s, one in zip(times["bfloat16"][MOST], single, strict=True)]
    return {
        "gflop_per_adapter": round(flops / 1e9, 3),
        "product_gflop_per_s": {
            name: round(statistics.median(values) / 1e9, 1) for name, values in rates.items()
        },
        "fast_bfloat16": has_fast_product(torch.bfloat16, torch.device("cpu")),
        "median_s": {
            name: {str(n): round(statistics.median(v), 4) for n, v in cases.items()}
            for name, cases in times.items()
        },
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
    write_json(options.out, recorder.complete({"time": {"cpu": times}, "targets": targets}))
    print(targets)


if __name__ == "__main__":
    main()
