"""Answers of a base model with and without adapters, and how far an adapter moves it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from text_to_lora.errors import ConfigError, T2LWarning, list_some
from text_to_lora.inference.generate import find_stop_tokens, generate, pad_left
from text_to_lora.inference.rows import Rows, answer_logits, split_by_tokens
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.prompts import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Nats per answer token under which an adapter "hardly changes" its base: by Pinsker's inequality
# no token's probability then moves by more than 5 points on average.
SMALL_EFFECT: Final = 0.005

TOKENS_PER_PASS: Final = 4096
"""Tokens that run together, with padding and with room for the answers."""

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
    """Greedy answers to inputs, those of like length together.

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
    stop_tokens = find_stop_tokens(model, tokenizer, frame)
    answers = [""] * len(inputs)
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    for places in split_by_tokens(lengths, TOKENS_PER_PASS):
        ids, mask = pad_left([prompts[place] for place in places], model.device)
        adapters = [rows[place] if rows is not None else 0 for place in places]
        with nullcontext() if weights is None else adapted(model, weights, adapters):
            output = generate(
                model, ids, mask, max_new_tokens=max_new_tokens, stop_tokens=stop_tokens
            )
        for place, answer_ids in zip(places, output.answer_ids, strict=True):
            answers[place] = frame.read_answer(tokenizer, answer_ids)
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
        frame.encode(tokenizer, text, reply, max_length=context_length(model))
        for text, reply in zip(inputs, answers, strict=True)
    ]
    result = torch.empty(len(encoded))
    lengths = [len(row.prompt_ids) + len(row.answer_ids) for row in encoded]
    for places in split_by_tokens(lengths, TOKENS_PER_PASS):
        prompts, replies = zip(
            *((encoded[i].prompt_ids, encoded[i].answer_ids) for i in places), strict=True
        )
        part = Rows.join(prompts, replies).to(model.device)
        adapters = None if rows is None else [rows[place] for place in places]
        with answer_logits(model, part) as logits:
            plain = log_softmax(logits.float(), dim=-1)
        with answer_logits(model, part, weights, adapters) as logits:
            moved = log_softmax(logits.float(), dim=-1)
        divergence = (moved.exp() * (moved - plain)).sum(-1)  # [answer tokens]
        sums = divergence.new_zeros(len(part)).index_add(0, part.of_row, divergence)
        result[places] = (sums / sums.new_tensor(part.answer_lengths)).cpu()
    return result


def _room(model: PreTrainedModel, max_new_tokens: int) -> int:
    """Tokens that a prompt may have beside an answer of so many tokens.

    Raises ConfigError when there are none.
    """
    context = context_length(model)
    if max_new_tokens >= context:
        raise ConfigError(
            f"max_new_tokens is {max_new_tokens}; this base reads {context} tokens of prompt and "
            "answer together; ask for fewer"
        )
    return context - max_new_tokens


def context_length(model: PreTrainedModel) -> int:
    """Tokens that a prompt and its answer may have together."""
    text_config = model.config.get_text_config(decoder=True)
    return min(int(getattr(text_config, "max_position_embeddings", _LONGEST)), _LONGEST)
