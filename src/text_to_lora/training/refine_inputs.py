"""Inputs of a refinement: checked against the limits, as token ids, and by their hashes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from text_to_lora.errors import ConfigError, T2LWarning, shorten
from text_to_lora.files import content_hash
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.tasks.prompts import PromptFormat
from text_to_lora.training.encoding import RowEncoder, check_positions
from text_to_lora.training.refine_settings import RefineInputs, RefineSettings, RefineTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STATES: Final = 6  # of an adapter: weights, gradient, two moments, best state, start; fp32


def identify(spec: LoraSpec, tasks: Sequence[RefineTask]) -> RefineInputs:
    """What an interrupted run is recognised by: base, descriptions and rows, by hashes."""
    origins = [[task.description, task.origin] for task in tasks]
    return RefineInputs(
        start=content_hash([spec.to_dict(), origins]),
        rows=tuple(map(hash_rows, tasks)),
    )


def hash_rows(task: RefineTask) -> str:
    """SHA-256 of a task's rows as a JSON list of [input, answer]."""
    return content_hash([list(row) for row in task.rows])


def make_encoder(
    tasks: Sequence[RefineTask],
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RefineSettings,
) -> RowEncoder:
    """An encoder for rows that were checked against the limits of tokens."""
    text_config = base.config.get_text_config(decoder=True)
    positions = getattr(text_config, "max_position_embeddings", None) or 10**9
    longest = max(8, min(settings.max_prompt_tokens, positions - settings.max_answer_tokens))
    check_positions((longest, settings.max_answer_tokens), base.config)
    frame = PromptFormat.for_tokenizer(tokenizer)
    cut = total = 0
    for task in tasks:
        for text, answer in task.rows:
            row = frame.encode(tokenizer, text, answer, max_length=10**9)
            if len(row.answer_ids) > settings.max_answer_tokens:
                raise ConfigError(
                    f"an answer of {task.name} has {len(row.answer_ids)} tokens "
                    f"({shorten(answer)}); {settings.max_answer_tokens} are the limit; shorten the "
                    "answer, leave the row out, or raise max_answer_tokens"
                )
            cut += len(row.prompt_ids) > longest
            total += 1
    if cut:
        warnings.warn(
            f"{cut} of {total} inputs are longer than {longest} tokens and lose their beginning; "
            "shorten them, or raise max_prompt_tokens where the base reads more",
            T2LWarning,
            stacklevel=4,
        )
    return RowEncoder(
        tokenizer,
        max_prompt_tokens=longest,
        max_answer_tokens=settings.max_answer_tokens,
    )


def check_memory(adapters: int, numbers: int, memory_gib: float) -> None:
    """Raise ConfigError when so many adapters of so many numbers need more than the memory."""
    needed = adapters * numbers * 4 * _STATES / 2**30
    if needed > memory_gib:
        raise ConfigError(
            f"{adapters} adapters at once need {needed:.1f} GiB; memory_gib is {memory_gib:g}; give "
            "fewer tasks at a time, or raise memory_gib"
        )
