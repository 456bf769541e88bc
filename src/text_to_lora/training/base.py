"""The embedded base model: an encoder's layers made causal, then taught text and instructions.

Two phases share one learning-rate schedule that ends at zero. *Text*: packed books and task
inputs, loss on a random half of the positions. *Instructions*: task rows, loss on the answer
alone, most with their description in the prompt and some without, so that the model does a task
when told, and telling is what is left to the adapter.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

from text_to_lora.files import write_file
from text_to_lora.inference.rows import Rows, answer_logits
from text_to_lora.tasks.task import Example, Task
from text_to_lora.training.base_tokenizer import ANSWER, END, INPUT, TASK
from text_to_lora.training.data import split_by_length
from text_to_lora.training.losses import answer_losses

MAX_DESCRIPTION = 96  # tokens; definitions of Super-NaturalInstructions have a median near 70
MAX_INPUT = 112  # tokens, cut from the left
MAX_ANSWER = 32  # tokens
SAVE_SECONDS = 300.0  # between states that a cut-off run resumes from


@dataclass(frozen=True)
class BasePlan:
    """What the base is trained on, and for how long.

    text_steps, instruction_steps: optimiser steps of the two phases
    text_rows, instruction_rows: rows a step; window: tokens a text row
    parts: groups of like length that the rows of an instruction step are run in
    family_share: rows of instruction steps that come from the synthetic families
    description_share: instruction rows with the description in the prompt
    learning_rate: peak; warmup: share of all steps; the rate falls linearly to zero
    """

    text_steps: int = 1000
    instruction_steps: int = 2200
    text_rows: int = 16
    instruction_rows: int = 24
    window: int = 128
    parts: int = 4
    family_share: float = 0.4
    description_share: float = 0.75
    learning_rate: float = 5e-4
    warmup: float = 0.04
    weight_decay: float = 0.01
    seed: int = 17

    @property
    def steps(self) -> int:
        """Optimiser steps of both phases."""
        return self.text_steps + self.instruction_steps

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then linear decay to zero at the end."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * (self.steps - step) / (self.steps - warm)


def warm_start(
    encoder_folder: Path, tokenizer: PreTrainedTokenizerFast, origin: dict[int, int]
) -> BertLMHeadModel:
    """Build the causal decoder from an encoder's weights and a trimmed vocabulary.

    origin: for each token id the encoder's id whose embedding it starts from
    """
    settings = json.loads((encoder_folder / "config.json").read_text(encoding="utf-8"))
    config = BertConfig(
        vocab_size=len(origin),
        hidden_size=settings["hidden_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=settings["intermediate_size"],
        max_position_embeddings=settings["max_position_embeddings"],
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = BertLMHeadModel(config)
    source = load_file(encoder_folder / "model.safetensors")
    rows = torch.tensor([origin[index] for index in range(len(origin))])
    state = model.state_dict()
    for name, tensor in source.items():
        target = f"bert.{name}"
        if name.endswith("word_embeddings.weight"):
            tensor = tensor[rows]
        elif name.endswith("token_type_embeddings.weight"):
            tensor = tensor[:1]
        if target in state and state[target].shape == tensor.shape:
            state[target].copy_(tensor)
    state["cls.predictions.transform.dense.weight"].copy_(torch.eye(config.hidden_size))
    state["cls.predictions.transform.LayerNorm.weight"].fill_(0.5)  # keeps the first logits mild
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


class InstructionRows:
    """Draws instruction rows; the rows of a step depend on (seed, step) alone.

    tasks: described tasks; families: tasks whose input does not tell what to do
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        tasks: Sequence[Task],
        families: Sequence[Task],
        plan: BasePlan,
    ) -> None:
        self._tokenizer = tokenizer
        self._plan = plan
        self._tasks = [(task, task.training()) for task in tasks]
        self._families = [(task, task.training()) for task in families]
        self._cache: dict[str, list[int]] = {}
        vocabulary = tokenizer.get_vocab()
        self._task, self._input, self._answer, self._end = (
            vocabulary[mark] for mark in (TASK, INPUT, ANSWER, END)
        )

    def batch(self, step: int) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and answers of a step, as token ids."""
        plan = self._plan
        draw = random.Random(f"{plan.seed}/{step}")
        prompts, answers = [], []
        for _ in range(plan.instruction_rows):
            pool = self._families if draw.random() < plan.family_share else self._tasks
            task, examples = draw.choice(pool or self._tasks)
            told = draw.random() < plan.description_share
            description = draw.choice(task.descriptions) if told else None
            prompt, answer = self.encode(draw.choice(examples), description)
            prompts.append(prompt)
            answers.append(answer)
        return prompts, answers

    def encode(self, example: Example, description: str | None) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of its first accepted answer."""
        told = [] if description is None else self._ids(description)[:MAX_DESCRIPTION]
        prompt = [self._task, *told] if description is not None else []
        prompt += [self._input, *self._ids(example.input)[-MAX_INPUT:], self._answer]
        return prompt, [*self._ids(example.outputs[0])[:MAX_ANSWER], self._end]

    def _ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]


def answer_nll(
    model: BertLMHeadModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Mean negative log-likelihood per answer token of every row, in nats, [batch]."""
    rows = Rows.join(prompts, answers).to(model.device)
    with answer_logits(model, rows) as logits:
        return answer_losses(logits, rows)


def text_nll(model: BertLMHeadModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Mean negative log-likelihood of the tokens after `positions`, in nats.

    ids: packed text, [batch, seq]; positions: columns that predict their successor, [kept]
    """
    logits = model(ids, logits_to_keep=positions, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, positions + 1].flatten())


def bits_per_character(
    model: BertLMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    window: int = 256,
) -> float:
    """Bits per character of texts, read in windows of `window` tokens without overlap."""
    bits = characters = 0.0
    model.train(False)
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
            kept = ids[: len(ids) // window * window]
            if not len(kept):
                continue
            characters += len(text) * len(kept) / len(ids)
            for rows in torch.split(kept.view(-1, window), 16):
                positions = torch.arange(window - 1)
                bits += float(text_nll(model, rows, positions)) * rows.numel() / math.log(2)
    return bits / characters


def train_base(
    model: BertLMHeadModel,
    plan: BasePlan,
    text: Tensor,
    rows: InstructionRows,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Train in place; resumes from `folder` when an earlier run was cut off.

    text: packed token ids of the text phase, [tokens]
    folder: receives `state.pt` every five minutes and `history.jsonl`
    dtype: of weights and activations in the passes; the optimiser keeps an fp32 copy, which is
        what the model holds in the end
    Returns steps, tokens and seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Plain attention: the fused CPU kernel's backward takes a quarter of a step of short rows
    # (2,690 against 3,510 tokens/s in bfloat16, 2 cores with AVX512-BF16, torch 2.13, 2026-11).
    model.set_attn_implementation("eager")
    masters = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [m for m in masters.values() if m.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [m for m in masters.values() if m.ndim <= 1]},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    state_file = folder / "state.pt"
    start, tokens, seconds = 0, 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["plan"] == asdict(plan):
            for name, tensor in state["model"].items():
                masters[name].copy_(tensor)
            optimizer.load_state_dict(state["optimizer"])
            start, tokens, seconds = state["step"], state["tokens"], state["seconds"]
    model.train().to(dtype)
    _copy(masters, model)
    began, saved, mean = time.monotonic() - seconds, time.monotonic(), 0.0
    for step in range(start, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        if step < plan.text_steps:
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
            starts = torch.randint(len(text) - plan.window, (plan.text_rows,), generator=generator)
            ids = torch.stack([text[s : s + plan.window] for s in starts.tolist()])
            chosen = torch.randperm(plan.window - 1, generator=generator)[: plan.window // 2]
            loss = text_nll(model, ids, chosen.sort().values)
            torch.autograd.backward(loss)
            tokens += ids.numel()
        else:
            prompts, answers = rows.batch(step)
            loss = torch.zeros(())
            lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
            for part in split_by_length(lengths, plan.parts):
                losses = answer_nll(model, [prompts[i] for i in part], [answers[i] for i in part])
                share = losses.sum() / len(prompts)
                torch.autograd.backward(share)
                loss += share.detach()
            tokens += sum(map(len, prompts)) + sum(map(len, answers))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss {loss.item()} at step {step}; lower the learning rate")
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            masters[name].grad = None if gradient is None else gradient.float()
        torch.nn.utils.clip_grad_norm_(list(masters.values()), 1.0)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        _copy(masters, model)
        first = step in (start, plan.text_steps)
        mean = loss.item() if first else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 25 == 0 or step + 1 == plan.steps:
            seconds = time.monotonic() - began
            line = {"step": step + 1, "loss": mean, "tokens": tokens, "seconds": seconds}
            with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            report(f"step {step + 1}/{plan.steps} loss {mean:.3f} {tokens / seconds:.0f} tokens/s")
        if time.monotonic() - saved > SAVE_SECONDS:
            state = {
                "plan": asdict(plan),
                "model": masters,
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "tokens": tokens,
                "seconds": time.monotonic() - began,
            }
            write_file(state_file, partial(torch.save, state))
            saved = time.monotonic()
    nn.Module.to(model, torch.float32).train(False)
    _copy(masters, model)
    return {"steps": plan.steps, "tokens": tokens, "seconds": time.monotonic() - began}


@torch.no_grad()
def _copy(masters: dict[str, Tensor], model: BertLMHeadModel) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(masters[name])
