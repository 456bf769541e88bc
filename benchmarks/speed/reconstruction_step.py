"""Speed and memory of reconstruction steps at the shapes of Mistral-7B, against a naive loss of ΔW.

    python -m benchmarks.speed.reconstruction_step [--rounds 3] [--threads 2]

Rank 8 on q_proj and v_proj in 32 layers, four tasks a step, hypernetwork M (latent 128, head input
512) with AdamW, random numbers. The losses: L1 between ΔW, and between z-scored factors. The naive
loss of ΔW makes the products of all tasks and layers of a module at once, prediction and target, as
the released code does. For four tasks that needs over 40 GB, so it runs on as many tasks and layers
as the machine's free memory holds, and ours is timed at that size as well; the time and the memory
of both losses grow with tasks times layers.

A figure of memory comes from a process of its own: the peak resident size over one pass of loss and
gradient above what was there before, without the gradients of the factors. Linux counts resident
pages to within a few MiB, so that a small figure may come out below zero. On a GPU it is allocated
memory. Times alternate in one process; ratios are of neighbours.

To hold: the loss of ΔW adds at most 64 MiB beyond its inputs and their gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.lib import Recorder, again, parse, run_json
from benchmarks.speed.generation import EMBEDDING_DIM, mistral_spec, seconds
from text_to_lora.files import write_json
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.outputs import ZScore
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.lora.spec import make_groups
from text_to_lora.training import library_batches, reconstruction
from text_to_lora.training.reconstruction_config import TargetSection
from text_to_lora.training.reconstruction_losses import Pair, delta_loss, factor_loss

MIB = 2**20
TASKS, LAYERS = 4, 32
TARGET_MIB = 64.0
COPIES = 6  # of the largest module's ΔW that the naive loss holds at once, with some to spare
SHARE_OF_FREE = 0.6  # of the machine's free memory, which others use as well
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


def shapes(layers: int) -> LoraSpec:
    """Mistral-7B's adapters, in the first so many layers."""
    whole = mistral_spec()
    slots = [slot for slot in whole.slots if slot.layer < layers]
    return LoraSpec(
        whole.base, whole.layers_path, LAYERS, whole.rank, whole.alpha, whole.rslora,
        tuple(make_groups(slots)),
    )  # fmt: skip


def random_adapters(spec: LoraSpec, tasks: int, device: str, seed: int) -> LoraWeights:
    """Adapters of numbers as large as those of trained ones."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.02 * torch.randn(*shape, generator=generator, device=device)

    return LoraWeights(
        spec,
        {g.key: draw(tasks, len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(tasks, len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


def make_loss(
    name: str, tasks: int, layers: int, device: str
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One pass of a loss and its gradient, and the tensors that get one."""
    spec = shapes(layers)
    predicted, wanted = (random_adapters(spec, tasks, device, seed) for seed in (0, 1))
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


def make_step(
    name: str, tasks: int, layers: int, device: str
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One whole step of training: hypernetwork, loss, gradients, clipping, AdamW."""
    spec = shapes(layers)
    wanted = random_adapters(spec, tasks, device, 1)
    output: Any = "zscore" if name == "factors" else "delta"
    config = HypernetConfig(head="shared", embedding_dim=EMBEDDING_DIM, output=output)
    hypernet = Hypernetwork.from_config(
        config, spec, torch.Generator().manual_seed(0), as_lora=False
    )
    if isinstance(hypernet.output, ZScore):
        hypernet.output.set_library(random_adapters(spec, tasks, "cpu", 2))
    target = TargetSection(target="zscore" if name == "factors" else "delta")
    with patch.object(reconstruction, "delta_loss", LOSSES[name]):
        module = reconstruction.ReconstructionModule(hypernet.to(device), target)
    embeddings = torch.randn(tasks, EMBEDDING_DIM, device=device)
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

    return run, parameters


MAKERS = {"loss": make_loss, "step": make_step}


def status_mib(field: str) -> float:
    """A size from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/self/status; memory is measured on Linux only")


def measure_memory(name: str, tasks: int, layers: int, device: str) -> dict[str, Any]:
    """MiB that one pass takes beyond what is there before and the gradients."""
    small = torch.ones(64, 64, device=device, requires_grad=True)
    product: Any = (small @ small).abs().mean()
    product.backward()  # what libraries allocate once
    run, inputs = make_loss(name, tasks, layers, device)
    if device == "cpu":
        before = status_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        run()
        peak = status_mib("VmHWM")
    else:
        before = torch.cuda.memory_allocated() / MIB
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated() / MIB
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in inputs) / MIB
    figures = {"peak": peak, "before": before, "gradients": gradients}
    figures["extra"] = peak - before - gradients
    return {
        "tasks": tasks,
        "layers": layers,
        **{key: round(value, 1) for key, value in figures.items()},
    }


def measure_time(
    part: str, cases: dict[str, tuple[str, int, int]], rounds: int, device: str
) -> dict[str, Any]:
    """Seconds of every case (loss, tasks, layers), all rounds, in alternation."""
    runs = {
        key: MAKERS[part](name, tasks, layers, device)[0]
        for key, (name, tasks, layers) in cases.items()
    }
    times: dict[str, list[float]] = {key: [] for key in cases}
    losses: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms up
        for key, run in runs.items():
            if not number:
                losses[key] = float(run())
                continue
            times[key].append(seconds(run, device))
    return {
        "median_s": {key: round(statistics.median(values), 3) for key, values in times.items()},
        "times_s": {key: [round(value, 3) for value in values] for key, values in times.items()},
        "first_loss": losses,
    }


def fitting(device: str) -> tuple[int, int]:
    """Tasks and layers of which the naive loss fits the free memory, as many as there can be.

    Raises SystemExit when not even one task in one layer does.
    """
    if device == "cpu":
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        free = torch.cuda.mem_get_info()[0]
    for tasks, layers in ((4, 32), (2, 32), (1, 32), (1, 16), (1, 8), (1, 4), (1, 2), (1, 1)):
        largest = max(
            4 * tasks * len(g.layers) * g.in_features * g.out_features
            for g in shapes(layers).groups
        )
        if COPIES * largest <= SHARE_OF_FREE * free:
            return tasks, layers
    raise SystemExit(f"{free / MIB:.0f} MiB are free, too few for the naive loss of one layer")


def run_part(part: list[str], options: argparse.Namespace) -> None:
    """One measurement in this process; prints JSON."""
    torch.set_num_threads(options.threads)
    if part[0] == "memory":
        _, name, tasks, layers = part
        result = measure_memory(name, int(tasks), int(layers), options.device)
    else:
        _, unit, cases = part
        result = measure_time(unit, json.loads(cases), options.rounds, options.device)
    print(json.dumps(result))


def measure(options: argparse.Namespace, *part: object) -> Any:
    """The result of one part, measured in a fresh process.

    Raises SystemExit with its output when it fails.
    """
    call = again("speed.reconstruction_step", "--threads", options.threads)
    call += ["--device", options.device, "--rounds", str(options.rounds), "--part", *map(str, part)]
    return run_json(call)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All figures.

    Raises SystemExit when the naive loss is another than ours.
    """
    whole = (options.tasks, options.layers)
    naive = tuple(map(min, fitting(options.device), whole))
    cases = {
        "delta": ("delta", *whole),
        "factors": ("factors", *whole),
        "delta_at_naive_size": ("delta", *naive),
        "naive_delta": ("naive_delta", *naive),
    }
    times = {part: measure(options, "time", part, json.dumps(cases)) for part in MAKERS}
    for part, figures in times.items():
        ours, theirs = (
            figures["first_loss"][key] for key in ("delta_at_naive_size", "naive_delta")
        )
        if abs(ours - theirs) > SAME * theirs:
            raise SystemExit(f"{part}: the loss is {ours}, the naive one {theirs}")
        pairs = zip(
            figures["times_s"]["naive_delta"],
            figures["times_s"]["delta_at_naive_size"],
            strict=True,
        )
        figures["naive_over_ours"] = round(statistics.median(a / b for a, b in pairs), 2)
    return {
        "whole": {"tasks": whole[0], "layers": whole[1]},
        "naive": {"tasks": naive[0], "layers": naive[1]},
        "time": times,
        "memory_mib": {key: measure(options, "memory", *case) for key, case in cases.items()},
    }


def summary(figures: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the README's table."""
    times, memory, naive = figures["time"], figures["memory_mib"], figures["naive"]
    ours, other = memory["delta"], memory["naive_delta"]
    step = times["step"]["median_s"]
    size = f"{naive['tasks']} of {figures['whole']['tasks']} tasks in {naive['layers']} layers"
    return [
        {
            "what": "memory of the loss of ΔW at Mistral-7B shapes, beyond inputs and gradients",
            "result": f"{max(ours['extra'], 0):.0f} MiB (naive: {other['extra']:,.0f} MiB for {size})",
            "target": f"{TARGET_MIB:g} MiB",
        },
        {
            "what": f"reconstruction steps of {figures['whole']['tasks']} tasks at these shapes, M",
            "result": f"{1 / step['delta']:.2f} a second on ΔW, {1 / step['factors']:.2f} on factors",
            "target": "",
        },
        {
            "what": "a step on ΔW, against the naive loss",
            "result": f"{times['step']['naive_over_ours']:.1f} × as fast; the loss alone "
            f"{times['loss']['naive_over_ours']:.1f} × ({size})",
            "target": "",
        },
    ]


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "reconstruction_step")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks of a step (default 4)")
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers (default 32)")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options)
        return
    gpu = {} if options.device == "cpu" else {"gpu": torch.cuda.get_device_name()}
    recorder = Recorder(threads=options.threads, device=options.device, **gpu)
    figures = compare(options)
    result = {
        "rounds": options.rounds,
        "target_extra_mib": TARGET_MIB,
        **figures,
        "summary": summary(figures),
    }
    write_json(options.out, recorder.complete(result))
    for row in result["summary"]:
        print(f"{row['what']}: {row['result']}")


if __name__ == "__main__":
    main()
