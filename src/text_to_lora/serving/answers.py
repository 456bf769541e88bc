"""Answers of a base model with and without adapters, and how far an adapter moves it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from text_to_lora.errors import ConfigError, T2LWarning, list_some
from text_to_lora.inference.rows import Rows, answer_logits, contiguous_head
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.prompts import Encoded, PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Nats per answer token under which an adapter "hardly changes" its base: by Pinsker's inequality
# no token's probability then moves by more than 5 points on average.
SMALL_EFFECT: Final = 0.005

_BATCH: Final = 32  # inputs that run together

_LONGEST: Final = 4096  # tokens of a prompt with its answer, where the model would read more


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[str],
    *,
    weights: LoraWeights | None = None,
    rows: Sequence[int] | None = None,
    description: str | None = None,
    max_new_tokens: int = 32,
) -> list[str]:
    """Greedy answers to inputs, 32 at a time.

    weights: adapters to answer with; rows: adapter of each input, None for adapter 0
    description: put into the prompt; left out by default
    max_new_tokens: most tokens of an answer

    Raises SpecError when the adapters are for another base, ConfigError when nothing of the
    inputs fits beside the answer; warns (T2LWarning) when the left of an input is left out.
    """
    frame = PromptFormat.for_tokenizer(tokenizer)
    room = _room(model, max_new_tokens)
    encoded = [
        frame.encode(tokenizer, text, description=description, max_length=room) for text in inputs
    ]
    if any(row.cut for row in encoded):
        dropped = count_dropped(
            model, tokenizer, inputs, description=description, max_new_tokens=max_new_tokens
        )
        parts = [f"{count} of input {place}" for place, count in enumerate(dropped, 1) if count]
        warnings.warn(
            f"this base reads {room} tokens of a prompt beside an answer of {max_new_tokens}; it did "
            f"not read the first tokens of long inputs: {list_some(parts)}; shorten them",
            T2LWarning,
            stacklevel=2,
        )
    prompts = [row.prompt_ids for row in encoded]
    generate = cast("Any", model).generate
    answers: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        part = slice(start, start + _BATCH)
        ids, mask = _pad_left(prompts[part], tokenizer, model.device)
        with _block(model, weights, rows, part, len(ids)), contiguous_head(model):
            output: Tensor = generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=tokenizer.pad_token_id,
            )
        answers += [frame.read_answer(tokenizer, row) for row in output[:, ids.shape[1] :].tolist()]
    return answers


def count_dropped(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[str],
    *,
    description: str | None = None,
    max_new_tokens: int = 32,
) -> list[int]:
    """Count the tokens on the left of each input that `answer` leaves out, since they do not fit.

    Raises ConfigError when nothing of the inputs fits beside the answer.
    """
    frame = PromptFormat.for_tokenizer(tokenizer)
    dropped = []
    for text in inputs:
        whole, read = (
            frame.encode(tokenizer, text, description=description, max_length=limit).prompt_ids
            for limit in (sys.maxsize, _room(model, max_new_tokens))
        )
        dropped.append(len(whole) - len(read))
    return dropped


@torch.inference_mode()
def effect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[str],
    answers: Sequence[str],
    weights: LoraWeights,
    *,
    rows: Sequence[int] | None = None,
) -> Tensor:
    """How far adapters move the base on these answers, [inputs].

    Mean over the positions that predict an answer's tokens of KL(adapted, base), in nats. Take the
    adapted model's own answers, since the positions of other answers may never be reached.
    rows: adapter of each input, None for adapter 0
    """
    frame = PromptFormat.for_tokenizer(tokenizer)
    encoded = [
        frame.encode(tokenizer, text, reply, max_length=_context(model))
        for text, reply in zip(inputs, answers, strict=True)
    ]
    parts = [
        _divergence(model, tokenizer, encoded[start : start + _BATCH], weights, rows, start)
        for start in range(0, len(encoded), _BATCH)
    ]
    return torch.cat(parts)


def _divergence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    weights: LoraWeights,
    rows: Sequence[int] | None,
    start: int,
) -> Tensor:
    """`effect` of one part of the inputs, which begins at input `start`, [inputs]."""
    rows_of_part = Rows.join(
        [row.prompt_ids for row in encoded], [row.answer_ids for row in encoded]
    ).to(model.device)
    chosen = None if rows is None else rows[start : start + len(encoded)]
    with answer_logits(model, rows_of_part) as logits:
        plain = log_softmax(logits.float(), dim=-1)
    with answer_logits(model, rows_of_part, weights, chosen) as logits:
        moved = log_softmax(logits.float(), dim=-1)
    divergence = (moved.exp() * (moved - plain)).sum(-1)  # [answer tokens]
    sums = divergence.new_zeros(len(encoded)).index_add(0, rows_of_part.of_row, divergence)
    return sums / sums.new_tensor(rows_of_part.answer_lengths)


def _block(
    model: PreTrainedModel,
    weights: LoraWeights | None,
    rows: Sequence[int] | None,
    part: slice,
    count: int,
) -> AbstractContextManager[None]:
    """Adapters on the model for one part of the inputs, which holds `count` of them."""
    if weights is None:
        return nullcontext()
    return adapted(model, weights, list(rows[part]) if rows is not None else [0] * count)


def _room(model: PreTrainedModel, max_new_tokens: int) -> int:
    """Tokens that a prompt may have beside an answer of so many tokens.

    Raises ConfigError when there are none.
    """
    context = _context(model)
    if max_new_tokens >= context:
        raise ConfigError(
            f"max_new_tokens is {max_new_tokens}; this base reads {context} tokens of prompt and "
            "answer together; ask for fewer"
        )
    return context - max_new_tokens


def _context(model: PreTrainedModel) -> int:
    """Tokens that a prompt and its answer may have together."""
    text_config = model.config.get_text_config(decoder=True)
    return min(int(getattr(text_config, "max_position_embeddings", _LONGEST)), _LONGEST)


def _pad_left(
    rows: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, each [rows, seq]."""
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id or 0
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
