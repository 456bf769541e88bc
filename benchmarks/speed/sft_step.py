"""Time a supervised step on real rows: its floor, PEFT, ours, ours with the hypernetwork, and before.

    python -m benchmarks.speed.sft_step --base DIR --data DIR [--threads 1] [--rounds 5]

All are one forward and one backward pass of the same frozen base in bfloat16 over the same rows,
drawn from training tasks, with logits of the answers only:

floor: the base alone, rows packed without padding and each computed in full, its gradient taken down to
    the embeddings
static_peft: one LoRA of PEFT for all rows, padded to the longest as a Trainer does, the head's input
    contiguous
adapted: an adapter of its own for every two rows, given; gradients of A and B
whole: the same with the hypernetwork of the recipe `embedded`, which reads the words of descriptions
    with the base, down to its weights
before: the whole step as it was until 2026-11-30 (commit f28a688), padded, with batched hooks, the
    head on a slice and the hypernetwork in float32

They alternate in one process on equal threads; figures are medians over the rounds, in tokens
without padding a second. To reach: adapted at least 0.7 of the floor and as fast as PEFT, whole at
least 0.55 of the floor and 2.5 times as fast as before.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import PreTrainedModel

from benchmarks.lib import Recorder, parse
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.inference.rows import Layout, Rows, answer_logits, logits_at
from text_to_lora.lora import LoraSpec, LoraWeights, adapted
from text_to_lora.models.base import load_base, load_tokenizer
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.training.batches import Batch, Part
from text_to_lora.training.config import load_recipe
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.losses import answer_losses
from text_to_lora.training.module import SftModule
from text_to_lora.training.setup import token_config
from text_to_lora.training.step_adapters import TextAdapters

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS, ROWS_PER_ADAPTER = 32, 2
RANK, WIDTH = 8, 256  # of the adapters; latent and head width of the joint head
EMBEDDING_DIM = 384
# Loss of one variant against the others': bfloat16 sums in another order.
AGREE = 0.02
TO_REACH = {
    "adapted_to_floor": 0.7,
    "adapted_to_static_peft": 1.0,
    "whole_to_floor": 0.55,
    "whole_to_before": 2.5,
}
"""Tokens a second of one variant as a multiple of another's."""

Step = Callable[[], float]
"""One forward and backward pass; gives the loss in nats a token."""


def draw_rows(data: Path, base: str) -> tuple[Rows, list[str]]:
    """Rows of training tasks, two of each, cut as in training by default, and a description a task."""
    sampler = TaskSampler(
        load_data_dir(data, split="train"),
        tasks_per_batch=ROWS // ROWS_PER_ADAPTER,
        examples_per_task=ROWS_PER_ADAPTER,
        family_share=None,
        one_description=True,
    )
    drawn = sampler.batch(0)
    encoder = RowEncoder(load_tokenizer(base), max_prompt_tokens=256, max_answer_tokens=64)
    descriptions = [
        sampler.tasks[row.task_index].descriptions[row.description_index]
        for row in drawn[::ROWS_PER_ADAPTER]
    ]
    return encoder.join((row.input, row.output, None) for row in drawn), descriptions


def load_frozen(base: str) -> PreTrainedModel:
    """The base in bfloat16, without gradients."""
    model, _ = load_base(base, dtype=torch.bfloat16)
    model.requires_grad_(False)
    return model


def floor_step(base: PreTrainedModel, rows: Rows) -> Step:
    """The frozen base alone."""

    def step() -> float:
        handle = base.get_input_embeddings().register_forward_hook(
            lambda module, args, output: output.requires_grad_()
        )
        with answer_logits(base, rows, share=False) as logits:
            loss = answer_losses(logits, rows).mean()
            torch.autograd.backward(loss)
        handle.remove()
        return float(loss.detach())

    return step


def static_step(model: PreTrainedModel, spec: LoraSpec, rows: Rows) -> Step:
    """One LoRA of PEFT for all rows, in the base's dtype."""
    config = peft.LoraConfig(r=spec.rank, lora_alpha=int(spec.alpha), target_modules=TARGETS)
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    plain: Any = wrapped.get_base_model()
    layout = Layout.padded_left(rows)
    inputs, places = layout.inputs(), layout.answer_positions()

    def step() -> float:
        logits = logits_at(plain, places, **inputs)
        loss = answer_losses(logits, rows).mean()
        torch.autograd.backward(loss)
        wrapped.zero_grad()
        return float(loss.detach())

    return step


def adapted_step(
    base: PreTrainedModel, weights: LoraWeights, adapters: list[int], rows: Rows
) -> Step:
    """Given adapters, in bfloat16 as the hypernetwork makes them."""
    given = weights.detach().to(dtype=torch.bfloat16)
    factors = [factor.requires_grad_() for factor in (*given.a.values(), *given.b.values())]

    def step() -> float:
        with answer_logits(base, rows, given, adapters) as logits:
            loss = answer_losses(logits, rows).mean()
            torch.autograd.grad(loss, factors)
        return float(loss.detach())

    return step


def whole_step(module: SftModule, batch: Batch) -> Step:
    """The step as training takes it, without the optimiser."""

    def step() -> float:
        loss = module(batch)
        torch.autograd.backward(loss)
        module.zero_grad()
        return float(loss.detach())

    return step


def step_before(
    base: PreTrainedModel, hypernet: Hypernetwork, batch: Batch, adapters: list[int]
) -> Step:
    """The step of commit f28a688, rebuilt: SftModule.forward, its part and Aligned in one."""
    (part,) = batch.parts
    rows = part.rows
    layout = Layout.padded_left(rows)
    inputs, columns = layout.inputs(), max(rows.answer_lengths)
    is_read = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    is_read.view(-1)[layout.answer_positions()] = True
    is_read = is_read[:, -columns - 1 : -1]

    def step() -> float:
        weights = hypernet(batch.embeddings)
        factors = [*weights.a.values(), *weights.b.values()]
        distinct = list(dict.fromkeys(adapters))
        chosen = weights.detach().select(distinct)
        leaves = [factor.requires_grad_() for factor in (*chosen.a.values(), *chosen.b.values())]
        with adapted(base, chosen, [distinct.index(adapter) for adapter in adapters]):
            logits = base(**inputs, logits_to_keep=columns + 1).logits
            loss = answer_losses(logits[:, -columns - 1 : -1][is_read], rows).mean()
            torch.autograd.backward(loss)
        gradients = [torch.zeros_like(factor) for factor in factors]
        for gradient, leaf in zip(gradients, leaves, strict=True):
            gradient.index_add_(0, torch.tensor(distinct), leaf.grad)
        torch.autograd.backward(factors, [gradient * loss.new_ones(()) for gradient in gradients])
        hypernet.zero_grad()
        return float(loss.detach())

    return step


def make_steps(data: Path, base_folder: str) -> tuple[dict[str, Step], Rows]:
    """Every variant over the same rows."""
    rows, descriptions = draw_rows(data, base_folder)
    adapters = [row // ROWS_PER_ADAPTER for row in range(len(rows))]
    base, tokenizer = load_frozen(base_folder), load_tokenizer(base_folder)
    spec = LoraSpec.from_config(base.config, targets=TARGETS, rank=RANK, alpha=16)
    config = HypernetConfig(
        head="joint",
        embedding_dim=EMBEDDING_DIM,
        latent_size=WIDTH,
        head_in_size=WIDTH,
        dropout=0.0,
    )
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(max(adapters) + 1, EMBEDDING_DIM, generator=generator)
    names = tuple(map(str, adapters))
    part = Part(rows, tuple(adapters), names)
    batch = Batch((part,), embeddings, texts=tuple(descriptions), total_rows=len(rows))
    tokens = token_config(load_recipe("embedded").tokens, base.config)
    assert tokens is not None
    hypernet, hypernet_before = (
        Hypernetwork.from_config(each, spec, torch.Generator().manual_seed(1))
        for each in (replace(config, tokens=tokens), config)
    )
    reader = TokenReader.of_model(base, tokenizer, spec, tokens)
    steps = {
        "floor": floor_step(base, rows),
        "static_peft": static_step(load_frozen(base_folder), spec, rows),
        "adapted": adapted_step(base, hypernet_before(embeddings), adapters, rows),
        "whole": whole_step(SftModule(TextAdapters(hypernet, reader), base), batch),
        "before": step_before(load_frozen(base_folder), hypernet_before, batch, adapters),
    }
    return steps, rows


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after one that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        losses = {}
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name] = step()
            if number:
                times[name].append(time.perf_counter() - start)
        print(f"round {number}: losses {losses}", flush=True)
        # The adapters start as PEFT's do, with B = 0, so that all variants have the base's loss.
        assert max(losses.values()) - min(losses.values()) < AGREE * min(losses.values())
    return times


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "sft_step", threads=1)
    parser.add_argument("--base", required=True, help="folder of a Llama-type base")
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    steps, rows = make_steps(options.data, options.base)
    times = measure(steps, options.rounds)
    tokens = len(rows.tokens)
    pace = {name: tokens / statistics.median(values) for name, values in times.items()}
    pairs = {name: name.split("_to_") for name in TO_REACH}
    result = {
        "peft": peft.__version__,
        "rows": {
            "count": len(rows),
            "tokens": tokens,
            "answer_tokens": sum(rows.answer_lengths),
            "longest": max(rows.lengths),
            "tokens_padded": len(rows) * max(rows.lengths),
        },
        "seconds_of_rounds": {
            name: [round(v, 3) for v in values] for name, values in times.items()
        },
        "tokens_per_second": {name: round(value, 1) for name, value in pace.items()},
        "ratios": {name: round(pace[a] / pace[b], 3) for name, (a, b) in pairs.items()},
        "to_reach": TO_REACH,
    }
    print(json.dumps(result["tokens_per_second"]), json.dumps(result["ratios"]))
    recorder.write(options.out, result)


if __name__ == "__main__":
    main()
