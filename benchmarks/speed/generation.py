"""Time of generating adapters at the shapes of Mistral-7B: embeddings to LoraWeights.

    python -m benchmarks.speed.generation [--rounds 7] [--threads 2]

Architecture L with random weights, 1024-d task embeddings, no base model; on the CPU, and on a GPU
when there is one, each in a fresh process. All cases run in alternation with products of two square
fp32 matrices (and bfloat16 ones), so that what disturbs one disturbs the others; ratios are taken
within a round, then their median. One description: the mean of several passes after each other.

To reach: at 64 descriptions in fp32 60% of the machine's fp32 rate, in bfloat16 five times the
adapters per second of fp32 one at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.lib import Recorder, again, parse, run_json
from text_to_lora.analysis.cost import count
from text_to_lora.files import write_json
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups

COUNTS = (1, 8, 64)  # descriptions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {1: 8, 8: 2, 64: 1}  # passes a round
EMBEDDING_DIM = 1024  # gte-large-en-v1.5
SQUARE = 2048  # side of the matrices whose product gives the machine's rate

TARGET_FRACTION = 0.6
TARGET_RATIO = 5.0


def mistral_spec() -> LoraSpec:
    """Rank 8 on q_proj and v_proj of Mistral-7B; by hand, so that transformers is not loaded."""
    shapes = {"self_attn.q_proj": 4096, "self_attn.v_proj": 1024}
    slots = [Slot(i, module, 4096, out) for i in range(32) for module, out in shapes.items()]
    base = BaseModelRef("mistralai/Mistral-7B-Instruct-v0.2", None, "", "mistral")
    return LoraSpec(base, "model.layers", 32, 8, 16.0, True, tuple(make_groups(slots)))


def make_hypernet(
    spec: LoraSpec, dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> Hypernetwork:
    """Architecture L, every number random, made in its dtype at once."""
    hypernet = Hypernetwork.empty(HypernetConfig(head="joint", embedding_dim=EMBEDDING_DIM), spec)
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, tensor in hypernet.state_dict().items():
        bound = tensor.shape[-1] ** -0.5
        filled = torch.empty(tensor.shape, dtype=dtype, device=device)
        state[name] = filled.uniform_(-bound, bound, generator=generator)
        if tensor.ndim == 1 and "head" not in name and name.endswith("weight"):
            state[name].add_(1)  # LayerNorm
    hypernet.load_state_dict(state, assign=True)
    return hypernet.to(device).eval().requires_grad_(False)


def seconds(run: Callable[[], object], device: str, passes: int = 1) -> float:
    """Time of one of several runs after each other."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(passes):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / passes


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure_time(device: str, rounds: int) -> dict[str, Any]:
    """Seconds of every case and of square products, all rounds, in alternation."""
    spec = mistral_spec()
    hypernets = {name: make_hypernet(spec, dtype, device) for name, dtype in DTYPES.items()}
    flops = count(lambda: hypernets["float32"](torch.zeros(1, EMBEDDING_DIM, device=device)))
    embeddings = torch.randn(max(COUNTS), EMBEDDING_DIM, device=device)
    squares = {
        name: [torch.randn(SQUARE, SQUARE, device=device).to(dtype) for _ in range(3)]
        for name, dtype in DTYPES.items()
    }
    product_flops = 2 * SQUARE**3
    rates: dict[str, list[float]] = {name: [] for name in DTYPES}
    times: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in COUNTS} for name in DTYPES
    }
    for number in range(rounds + 1):  # the first warms up
        for name, hypernet in hypernets.items():
            left, right, out = squares[name]
            product = seconds(partial(torch.mm, left, right, out=out), device, 3)
            case_times = {
                count: seconds(partial(hypernet, embeddings[:count]), device, PASSES[count])
                for count in COUNTS
            }
            if number:
                rates[name].append(product_flops / product)
                for number_of, value in case_times.items():
                    times[name][number_of].append(value)
    most = max(COUNTS)
    fractions = [
        most * flops / value / rate
        for value, rate in zip(times["float32"][most], rates["float32"], strict=True)
    ]
    ratios = [
        most * single / value
        for value, single in zip(times["bfloat16"][most], times["float32"][1], strict=True)
    ]
    return {
        "gflop_per_adapter": round(flops / 1e9, 3),
        "product_gflop_per_s": {
            name: round(statistics.median(values) / 1e9, 1) for name, values in rates.items()
        },
        "fast_bfloat16": has_fast_product(torch.bfloat16, torch.device(device)),
        "median_s": {
            name: {str(n): round(statistics.median(v), 4) for n, v in cases.items()}
            for name, cases in times.items()
        },
        "adapters_per_s": {
            name: {str(n): round(n / statistics.median(v), 1) for n, v in cases.items()}
            for name, cases in times.items()
        },
        "fraction_of_fp32_rate_at_64": round(statistics.median(fractions), 3),
        "bf16_at_64_over_fp32_at_1": round(statistics.median(ratios), 2),
        "rounds": {
            "fraction_of_fp32_rate_at_64": [round(value, 3) for value in fractions],
            "bf16_at_64_over_fp32_at_1": [round(value, 2) for value in ratios],
            "s": {
                name: {str(n): [round(x, 4) for x in v] for n, v in cases.items()}
                for name, cases in times.items()
            },
        },
    }


def main() -> None:
    """Run all parts, print the result and write it down."""
    parser = parse(__doc__, "generation")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device:
        with torch.no_grad():
            print(json.dumps(measure_time(options.device, options.rounds)))
        return
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    gpu = {"gpu": torch.cuda.get_device_name()} if "cuda" in devices else {}
    recorder = Recorder(threads=options.threads, **gpu)
    if (load := recorder.machine["load_average_1_min"]) > 0.5:
        print(f"load average {load}: other work disturbs the figures; wait until it is idle")
    call = again("speed.generation", "--threads", options.threads, "--rounds", options.rounds)
    times = {device: run_json([*call, "--device", device]) for device in devices}
    fraction = times["cpu"]["fraction_of_fp32_rate_at_64"]
    ratio = times["cpu"]["bf16_at_64_over_fp32_at_1"]
    result = {
        "time": times,
        "targets": {
            "fraction_of_fp32_rate_at_64": {"to_reach": TARGET_FRACTION, "found": fraction},
            "bf16_at_64_over_fp32_at_1": {"to_reach": TARGET_RATIO, "found": ratio},
        },
    }
    write_json(options.out, recorder.complete(result))
    print(f"64 in fp32: {fraction:.0%} of the fp32 product rate, to reach {TARGET_FRACTION:.0%}")
    print(f"64 in bfloat16: {ratio:.1f} x fp32 one at a time, to reach {TARGET_RATIO:.0f}")
    print(f"logits: bfloat16 changes {result['logits']['bf16_change']:.2%} of their norm")


if __name__ == "__main__":
    main()
