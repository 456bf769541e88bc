"""Speed and memory of reconstruction steps at the shapes of Mistral-7B, against a naive loss of ΔW.

    python -m benchmarks.speed.reconstruction_step [--rounds 3] [--threads 2]

Rank 8 on q_proj and v_proj in 32 layers, four tasks a step, hypernetwork M (latent 128, head input
512) with AdamW, random numbers. The losses: L1 between ΔW, and between z-scored factors. The naive
loss of ΔW makes the products of all tasks and layers of a module at once, prediction and target, as
the released code does. For four tasks that needs over 32 GB, so it runs on one task (8.2 GB),
and ours is timed at that size as well; time and memory of both grow with tasks times layers.

Each case is a process of its own. Memory is the peak resident size over one pass of loss and gradient
above what was there before, without the gradients of the factors; Linux counts resident pages to
within a few MiB, so that a small figure may come out below zero. Times are medians of rounds.

To hold: the loss of ΔW adds at most 64 MiB beyond its inputs and their gradients.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.lib import Recorder, memory_bytes, parse, random_adapters, reset_peak, run_alone
from benchmarks.speed.cost import EMBEDDING_DIM, mistral_spec
from benchmarks.speed.generation import seconds
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.outputs import ZScore
from text_to_lora.training import library_batches, reconstruction
from text_to_lora.training.reconstruction_config import TargetSection
from text_to_lora.training.reconstruction_losses import Pair, delta_loss, factor_loss

MIB = 2**20
TASKS, NAIVE_TASKS = 4, 1
TARGET_MIB = 64.0
SCALE = 0.02  # numbers as large as those of trained adapters
SAME = 1e-4  # relative; sums in another order


def naive_delta_loss(predicted: Pair, wanted: Pair) -> Tensor:
    """The loss of `delta_loss`, by way of every ΔW."""
    (a, b), (wanted_a, wanted_b) = predicted, wanted
    losses = [(b[key] @ a[key] - wanted_b[key] @ wanted_a[key]).abs().mean() for key in a]
    return torch.stack(losses).mean()


LOSSES: dict[str, Callable[[Pair, Pair], Tensor]] = {
    "delta": delta_loss,
    "naive_delta": naive_delta_loss,
    "factors": factor_loss,
}
CASES = {
    "delta": ("delta", TASKS),
    "factors": ("factors", TASKS),
    "delta_at_naive_size": ("delta", NAIVE_TASKS),
    "naive_delta": ("naive_delta", NAIVE_TASKS),
}


def make_loss(name: str, tasks: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One pass of a loss and its gradient, and the tensors that get one."""
    spec = mistral_spec()
    predicted, wanted = (random_adapters(spec, tasks, seed, scale=SCALE) for seed in (0, 1))
    factors = [*predicted.a.values(), *predicted.b.values()]
    for factor in factors:
        factor.requires_grad_()

    def run() -> Tensor:
        for factor in factors:
            factor.grad = None
        loss = LOSSES[name]((predicted.a, predicted.b), (wanted.a, wanted.b))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return run, factors


def make_step(name: str, tasks: int) -> Callable[[], Tensor]:
    """One whole step of training: hypernetwork, loss, gradients, clipping, AdamW."""
    spec = mistral_spec()
    wanted = random_adapters(spec, tasks, 1, scale=SCALE)
    output: Any = "zscore" if name == "factors" else "delta"
    config = HypernetConfig(head="shared", embedding_dim=EMBEDDING_DIM, output=output)
    hypernet = Hypernetwork.from_config(
        config, spec, torch.Generator().manual_seed(0), as_lora=False
    )
    if isinstance(hypernet.output, ZScore):
        hypernet.output.set_library(random_adapters(spec, tasks, 2, scale=SCALE))
    with patch.object(reconstruction, "delta_loss", LOSSES[name]):
        module = reconstruction.ReconstructionModule(hypernet, TargetSection(target=output))
    embeddings = torch.randn(tasks, EMBEDDING_DIM)
    batch = library_batches.TaskBatch(embeddings, wanted.a, wanted.b, names=list, share=1.0, seed=0)
    parameters: list[Tensor] = list(hypernet.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def run() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = module(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    return run


def measure(name: str, tasks: int, rounds: int) -> dict[str, Any]:
    """MiB that one pass of the loss takes beyond what is there before and the gradients; seconds."""
    small = torch.ones(64, 64, requires_grad=True)
    product: Any = (small @ small).abs().mean()
    product.backward()  # what libraries allocate once
    run, inputs = make_loss(name, tasks)
    before, loss = reset_peak(), float(run())
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    extra = memory_bytes("VmHWM") - before - gradients
    step = make_step(name, tasks)
    step()  # warms up
    times = {"loss_s": [seconds(run) for _ in range(rounds)]}
    times["step_s"] = [seconds(step) for _ in range(rounds)]
    medians = {key: round(statistics.median(values), 3) for key, values in times.items()}
    return {"loss": loss, "extra_mib": round(extra / MIB, 1), **medians}


def summary(cases: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the table in docs/results.md."""
    size, ours = f"{NAIVE_TASKS} of {TASKS} tasks in 32 layers", cases["delta"]
    naive, same = cases["naive_delta"], cases["delta_at_naive_size"]
    memory = (
        f"{max(ours['extra_mib'], 0):.0f} MiB (naive: {naive['extra_mib']:,.0f} MiB for {size})"
    )
    pace = (
        f"{1 / ours['step_s']:.2f} a second on ΔW, {1 / cases['factors']['step_s']:.2f} on factors"
    )
    faster = f"{naive['step_s'] / same['step_s']:.1f} × as fast; the loss alone "
    faster += f"{naive['loss_s'] / same['loss_s']:.1f} × ({size})"
    rows = (
        (
            "memory of the loss of ΔW at Mistral-7B shapes, beyond inputs and gradients",
            memory,
            f"{TARGET_MIB:g} MiB",
        ),
        (f"reconstruction steps of {TASKS} tasks at these shapes, M", pace, ""),
        ("a step on ΔW, against the naive loss", faster, ""),
    )
    return [{"what": what, "result": result, "target": target} for what, result, target in rows]


def main() -> None:
    """Run the comparison, print it and write it down.

    Raises SystemExit when the naive loss is another than ours.
    """
    parser = parse(__doc__, "reconstruction_step")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    options = parser.parse_args()
    recorder = Recorder(threads=options.threads)
    cases = {
        name: run_alone(options.threads, measure, *case, options.rounds)
        for name, case in CASES.items()
    }
    ours, naive = (cases[name]["loss"] for name in ("delta_at_naive_size", "naive_delta"))
    if abs(ours - naive) > SAME * naive:
        raise SystemExit(f"the loss is {ours}, the naive one {naive}")
    rows = summary(cases)
    result = {"rounds": options.rounds, "target_extra_mib": TARGET_MIB, "cases": cases}
    recorder.write(options.out, result | {"summary": rows})
    for row in rows:
        print(f"{row['what']}: {row['result']}")


if __name__ == "__main__":
    main()
