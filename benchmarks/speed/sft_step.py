"""Time an SFT step under adapted(), every row its own adapter, against one static PEFT LoRA.

    python -m benchmarks.speed.sft_step [--base DIR] [--device cuda] [--rounds 15]

Both steps are the forward and backward pass of the same frozen base over the same rows, with
logits of the answer positions only, down to the gradients of A and B, in the same dtype and on
the same targets. The hypernetwork, which one of the two needs, is timed apart: the pass that
makes the adapters, and the way of their gradients into its weights. Steps alternate in one
process, and medians are of the ratios of neighbours, so that other load weighs on both alike.
To reach: the adapted step takes at most 1.25 times the static one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, PreTrainedModel

from benchmarks.lib import RESULTS, command, machine
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import LoraSpec, LoraWeights, adapted
from text_to_lora.models.find import EMBEDDED, find_base

TARGET = 1.25
TARGETS: dict[str, str | list[str]] = {
    "all-linear": "all-linear",
    "query-value": ["query", "value"],
}


def embedded_like() -> PreTrainedModel:
    """A random base of the embedded one's size."""
    config = BertConfig(
        vocab_size=12_000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,
    )
    make: Any = AutoModelForCausalLM.from_config
    model: PreTrainedModel = make(config)
    return model


def installed_base() -> str | None:
    """Folder of the embedded base, or None where it is not installed."""
    try:
        return str(find_base(EMBEDDED))
    except ConfigError:
        return None


def describe(asked: str | None, found: str | None) -> str:
    """What was timed, in words."""
    if asked:
        return asked
    size = "BERT decoder, 6 layers, 384 wide, vocabulary 12,000"
    return f"random {size}" if found is None else f"the embedded base, a {size}"


class Batch:
    """Rows of random tokens whose last `answer` positions carry the loss."""

    def __init__(
        self, rows: int, tokens: int, answer: int, vocab: int, device: torch.device
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(6, vocab, (rows, tokens), generator=generator)
        self.ids = ids.to(device)
        self.mask = torch.ones_like(self.ids)
        self.answer = answer

    def loss(self, model: torch.nn.Module) -> Tensor:
        """Mean cross-entropy of the answers."""
        logits = model(
            input_ids=self.ids,
            attention_mask=self.mask,
            logits_to_keep=self.answer + 1,
            use_cache=False,
        ).logits[:, :-1]
        return F.cross_entropy(logits.float().flatten(0, 1), self.ids[:, -self.answer :].flatten())


def adapted_step(
    model: PreTrainedModel, spec: LoraSpec, batch: Batch, device: torch.device
) -> Callable[[], None]:
    """A step with one adapter of random float32 factors for each row."""
    generator = torch.Generator().manual_seed(1)
    rows = len(batch.ids)
    a, b = {}, {}
    for group in spec.groups:
        slots = (rows, len(group.layers))
        shapes = (*slots, spec.rank, group.in_features), (*slots, group.out_features, spec.rank)
        a[group.key], b[group.key] = (
            (0.02 * torch.randn(*shape, generator=generator)).to(device).requires_grad_()
            for shape in shapes
        )
    weights = LoraWeights(spec, a, b)
    factors = [*a.values(), *b.values()]

    def step() -> None:
        with adapted(model, weights):
            gradients = torch.autograd.grad(batch.loss(model), factors)
        assert all(gradient is not None for gradient in gradients)

    return step


def static_step(model: PreTrainedModel, spec: LoraSpec, batch: Batch) -> Callable[[], None]:
    """The same step with one LoRA of PEFT for all rows, in the base's dtype."""
    names = [spec.module_name(slot.layer, slot.module) for slot in spec.slots]
    config = peft.LoraConfig(r=spec.rank, lora_alpha=int(spec.alpha), target_modules=names)
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    factors = [p for p in wrapped.parameters() if p.requires_grad]
    assert len(factors) == 2 * len(names)
    with torch.no_grad():
        for factor in factors:
            factor.normal_(std=0.02)

    def step() -> None:
        torch.autograd.grad(batch.loss(wrapped), factors)

    return step


def hypernet_step(spec: LoraSpec, rows: int, device: torch.device) -> Callable[[], None]:
    """Make one adapter for each row, and carry a gradient of every factor back."""
    config = HypernetConfig(head="joint", embedding_dim=384)
    hypernet = Hypernetwork.from_config(config, spec, torch.Generator().manual_seed(2)).to(device)
    embeddings = torch.randn(rows, 384, generator=torch.Generator().manual_seed(3)).to(device)
    parameters = [p for p in hypernet.parameters() if p.requires_grad]
    gradients: list[Tensor] = []

    def step() -> None:
        weights = hypernet(embeddings)
        factors = [*weights.a.values(), *weights.b.values()]
        if not gradients:
            gradients.extend(torch.ones_like(factor) for factor in factors)
        torch.autograd.grad(factors, parameters, gradients)

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Wall seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare(
    base: str | None,
    targets: str | list[str],
    dtype: torch.dtype,
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Medians of the steps in seconds, and of the ratio of neighbouring steps."""

    def make_base() -> PreTrainedModel:
        torch.manual_seed(0)
        load: Any = AutoModelForCausalLM.from_pretrained
        model: Any = embedded_like() if base is None else load(base, trust_remote_code=False)
        model.set_attn_implementation("eager")
        model = model.to(device, dtype).eval().requires_grad_(False)
        assert isinstance(model, PreTrainedModel)
        return model

    model = make_base()
    spec = LoraSpec.from_config(model.config, targets=targets, rank=options.rank)
    batch = Batch(options.rows, options.tokens, options.answer, model.config.vocab_size, device)
    steps = {
        "adapted": adapted_step(model, spec, batch, device),
        "static_peft": static_step(make_base(), spec, batch),
        "hypernetwork": hypernet_step(spec, options.rows, device),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(options.rounds + 2):
        for name, step in steps.items():
            elapsed = timed(step, device)
            if round_number >= 2:  # after two untimed rounds
                times[name].append(elapsed)
    ratios = [a / b for a, b in zip(times["adapted"], times["static_peft"], strict=True)]
    return {
        "median_s": {name: round(statistics.median(values), 4) for name, values in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios)[::2]],
        "slots": len(spec.slots),
    }


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", help="folder of a base model; default: the embedded one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default 15)")
    parser.add_argument("--rows", type=int, default=32, help="rows, all distinct adapters")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each row")
    parser.add_argument("--answer", type=int, default=16, help="of them answer, with logits")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "sft_step.json",
        help="where the result goes",
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    base = options.base or installed_base()
    before = machine() | {
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    started = time.perf_counter()
    results: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, targets in TARGETS.items():
            key = f"{str(dtype).removeprefix('torch.')}/{name}"
            results[key] = compare(base, targets, dtype, device, options)
            seconds = results[key]["median_s"]
            print(
                f"{key}: adapted {seconds['adapted']:.3f} s, static PEFT "
                f"{seconds['static_peft']:.3f} s, ratio {results[key]['ratio']:.2f} (to reach "
                f"{TARGET}); hypernetwork apart {seconds['hypernetwork']:.3f} s",
                flush=True,
            )
    result = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": before | {"load_average_1_min_after": round(os.getloadavg()[0], 2)},
        "peft": peft.__version__,
        "seconds": round(time.perf_counter() - started, 1),
        "rows": options.rows,
        "tokens": options.tokens,
        "answer_tokens": options.answer,
        "rank": options.rank,
        "rounds": options.rounds,
        "base": describe(options.base, base),
        "target_ratio": TARGET,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
