"""Time and memory of generating adapters at the shapes of Mistral-7B: embeddings to LoraWeights.

    python -m benchmarks.speed.generation [--rounds 7] [--threads 2]

Architecture L with random weights, 1024-d task embeddings, no base model; on the CPU, and on a GPU
when there is one. Every figure comes from a fresh process:

- time: all cases in alternation with products of two square fp32 matrices (and bfloat16 ones), so
  that what disturbs one disturbs the others; ratios are taken within a round, then their median.
  One description: the mean of several passes after each other.
- memory: one process a case; peak resident memory, and what of it is neither there before the pass
  nor the adapters themselves (on a GPU: allocated memory).
- logits: what bfloat16 weights change in a random two-layer model of full width (vocabulary cut).
- writing: seconds to write one PEFT folder, the disk's confirmation included.

To reach: at 64 descriptions in fp32 60% of the machine's fp32 rate, in bfloat16 five times the
adapters per second of fp32 one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import RESULTS, again, command, machine, run_json
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.lora import BaseModelRef, LoraSpec, LoraWeights, Slot, adapted, save_adapter
from text_to_lora.lora.spec import make_groups

COUNTS = (1, 8, 64)  # descriptions
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = {1: 8, 8: 2, 64: 1}  # passes a round
EMBEDDING_DIM = 1024  # gte-large-en-v1.5
SQUARE = 2048  # side of the matrices whose product gives the machine's rate
LOGIT_VOCABULARY = 4096
STRENGTH = 0.1  # of the random adapters on logits; at 1 they drown the random model
MIB = 2**20

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


def count_flops(hypernet: Hypernetwork) -> int:
    """Operations of the matrix products for one description, from their shapes."""
    total = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        nonlocal total
        rows = inputs[0].numel() // inputs[0].shape[-1]
        total += 2 * rows * module.get_parameter("weight").numel()

    linears = [m for m in hypernet.modules() if isinstance(m, torch.nn.Linear)]
    hooks = [linear.register_forward_hook(count) for linear in linears]
    hypernet(torch.zeros(1, EMBEDDING_DIM, device=next(hypernet.parameters()).device))
    for hook in hooks:
        hook.remove()
    return total


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
    flops = count_flops(hypernets["float32"])
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
                for count, value in case_times.items():
                    times[name][count].append(value)
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


def status_mib(field: str) -> float:
    """A size from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status; memory is measured on Linux only")


def measure_memory(device: str, dtype: str, count: int) -> dict[str, float]:
    """MiB of one pass in this process; `extra` is neither weights nor adapters."""
    hypernet = make_hypernet(mistral_spec(), DTYPES[dtype], device)
    embeddings = torch.randn(count, EMBEDDING_DIM, device=device)
    if device == "cpu":
        before = status_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        weights = hypernet(embeddings)
        peak = status_mib("VmHWM")
    else:
        before = torch.cuda.memory_allocated() / MIB
        torch.cuda.reset_peak_memory_stats()
        weights = hypernet(embeddings)
        peak = torch.cuda.max_memory_allocated() / MIB
    adapters = weights.num_bytes / MIB
    stored = sum(p.numel() * p.element_size() for p in hypernet.parameters()) / MIB
    figures = {"peak": peak, "weights": stored, "adapters": adapters}
    figures["extra"] = peak - before - adapters
    return {name: round(value, 1) for name, value in figures.items()}


def measure_logits() -> dict[str, Any]:
    """What bfloat16 weights change in an adapted model, beside what the adapter changes."""
    from transformers import AutoModelForCausalLM, MistralConfig

    config = MistralConfig(num_hidden_layers=2, vocab_size=LOGIT_VOCABULARY)
    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM.from_config
    model = make(config).eval().requires_grad_(False)
    spec = LoraSpec.from_config(
        config, targets=["q_proj", "v_proj"], rank=8, alpha=16.0, rslora=True
    )
    hypernet = make_hypernet(spec, torch.float32)
    embeddings = torch.randn(4, EMBEDDING_DIM)
    input_ids = torch.randint(0, LOGIT_VOCABULARY, (4, 64))

    def logits(weights: LoraWeights) -> torch.Tensor:
        with adapted(model, weights.to(dtype=torch.float32).scale(STRENGTH), range(4)):
            values: torch.Tensor = model(input_ids).logits
            return values

    base = model(input_ids).logits
    exact = logits(hypernet(embeddings))
    rounded = logits(hypernet.to(torch.bfloat16)(embeddings))
    divergence = torch.nn.functional.kl_div(
        rounded.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return {
        "model": "MistralConfig of full width, 2 layers, vocabulary 4096, fp32, random weights; "
        "4 descriptions x 64 tokens",
        "adapter_change": round(float((exact - base).norm() / base.norm()), 5),
        "bf16_change": round(float((rounded - exact).norm() / exact.norm()), 6),
        "bf16_change_over_adapter_change": round(
            float((rounded - exact).norm() / (exact - base).norm()), 5
        ),
        "largest_difference": round(float((rounded - exact).abs().max()), 5),
        "standard_deviation_of_logits": round(float(exact.std()), 4),
        "mean_kl_nats": float(f"{float(divergence.mean()):.2e}"),
        "same_first_token": round(
            float((rounded.argmax(-1) == exact.argmax(-1)).float().mean()), 4
        ),
    }


def measure_writing(rounds: int) -> dict[str, Any]:
    """Seconds of one PEFT folder, its dtype that of the adapter."""
    result = {}
    for name, dtype in DTYPES.items():
        (weights,) = make_hypernet(mistral_spec(), dtype)(torch.randn(1, EMBEDDING_DIM)).unbind()
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".writing-") as folder:
            times = [
                seconds(partial(save_adapter, weights, Path(folder) / str(n)), "cpu")
                for n in range(rounds)
            ]
        result[name] = {
            "s_per_adapter": round(statistics.median(times), 4),
            "mib": round(weights.num_bytes / MIB, 1),
        }
    return result


def run_part(part: list[str], threads: int, rounds: int) -> None:
    """One measurement in this process; prints JSON."""
    torch.set_num_threads(threads)
    kind, *arguments = part
    with torch.no_grad():
        if kind == "time":
            result: Any = measure_time(arguments[0], rounds)
        elif kind == "memory":
            result = measure_memory(arguments[0], arguments[1], int(arguments[2]))
        elif kind == "writing":
            result = measure_writing(rounds)
        else:
            result = measure_logits()
    print(json.dumps(result))


def measure(options: argparse.Namespace, *part: object) -> Any:
    """The result of one part, measured in a fresh process.

    Raises SystemExit with its output when it fails.
    """
    call = again("speed.generation", "--threads", options.threads)
    call += ["--rounds", str(options.rounds), "--part", *map(str, part)]
    return run_json(call)


def main() -> None:
    """Run all parts, print the result and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="torch threads (default: all cores)"
    )
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "generation.json",
        help="where the result goes",
    )
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options.threads, options.rounds)
        return

    before = machine() | {"threads": options.threads}
    if (load := before["load_average_1_min"]) > 0.5:
        print(f"load average {load}: other work disturbs the figures; wait until it is idle")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if "cuda" in devices:
        before["gpu"] = torch.cuda.get_device_name()
    times = {device: measure(options, "time", device) for device in devices}
    memory = {
        device: {
            dtype: {str(n): measure(options, "memory", device, dtype, n) for n in COUNTS}
            for dtype in DTYPES
        }
        for device in devices
    }
    fraction = times["cpu"]["fraction_of_fp32_rate_at_64"]
    ratio = times["cpu"]["bf16_at_64_over_fp32_at_1"]
    result = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": before | {"load_average_1_min_after": round(os.getloadavg()[0], 2)},
        "time": times,
        "peak_memory_mib": memory,
        "logits": measure(options, "logits"),
        "writing": measure(options, "writing"),
        "targets": {
            "fraction_of_fp32_rate_at_64": {"to_reach": TARGET_FRACTION, "found": fraction},
            "bf16_at_64_over_fp32_at_1": {"to_reach": TARGET_RATIO, "found": ratio},
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for device, found in times.items():
        for dtype, cases in found["median_s"].items():
            for count, value in cases.items():
                peak = memory[device][dtype][count]["peak"]
                print(
                    f"{device} {dtype:8} {count:>2} descriptions: {value:.3f} s, "
                    f"{int(count) / value:.1f} adapters/s, peak {peak:.0f} MiB"
                )
    print(f"64 in fp32: {fraction:.0%} of the fp32 product rate, to reach {TARGET_FRACTION:.0%}")
    print(f"64 in bfloat16: {ratio:.1f} x fp32 one at a time, to reach {TARGET_RATIO:.0f}")
    print(f"logits: bfloat16 changes {result['logits']['bf16_change']:.2%} of their norm")


if __name__ == "__main__":
    main()
