"""Greedy answers to prompts of tokens: which tokens end an answer, and one call of generate()."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from text_to_lora.inference.rows import contiguous_head
from text_to_lora.tasks.prompts import PromptFormat

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generated:
    """Greedy answers.

    answer_ids: of each prompt, without the token that ended it
    cache: of the prompts without their last token; None where the model's cache cannot be cropped
    """

    answer_ids: list[list[int]]
    cache: Cache | None


def generate(
    model: PreTrainedModel,
    prompts: Tensor,
    mask: Tensor,
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
) -> Generated:
    """Continue prompts greedily, without what the model's own generation settings would add.

    prompts, mask: token ids padded on the left and where they are tokens, [rows, seq]
    stop_tokens: end an answer
    """
    from transformers import GenerationConfig

    make_config = cast("Callable[..., GenerationConfig]", GenerationConfig)
    config = make_config(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=list(stop_tokens),
        pad_token_id=stop_tokens[0],
        return_dict_in_generate=True,
        use_cache=True,
    )
    run = cast("Callable[..., Any]", model.generate)
    with contiguous_head(model):
        output = run(prompts, attention_mask=mask, generation_config=config)
    cache: Cache | None = output.get(cache_name(model))
    if cache is not None and can_crop(cache):
        crop(cache, prompts.shape[1] - 1)
    else:
        cache = None
    new_tokens = output.sequences[:, prompts.shape[1] :].tolist()
    answers = [list(takewhile(lambda token: token not in stop_tokens, ids)) for ids in new_tokens]
    return Generated(answers, cache)


def find_stop_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, format: PromptFormat
) -> list[int]:
    """Tokens that end an answer: the model's own, and the first special one of the turn's end."""
    config = model.generation_config
    eos = config.eos_token_id if config is not None else None
    stops = [] if eos is None else eos if isinstance(eos, list) else [eos]
    end = tokenizer(format.bare.end, add_special_tokens=False).input_ids
    special = [token for token in end if token in tokenizer.all_special_ids]
    return sorted({*stops, *special[:1], tokenizer.eos_token_id} - {None})


def pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids, 0 where there is none, and where they are tokens, each [rows, seq]."""
    width = max(map(len, rows))
    ids = [[0] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def cache_name(model: PreTrainedModel) -> str:
    """The name of the cache in a model's forward pass; transformers renamed it in 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def new_cache(model: PreTrainedModel) -> Cache:
    """The cache that a model makes for itself, empty."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def crop(cache: Cache, length: int) -> None:
    """Take the keys of all tokens but the first `length` out of a cache."""
    cache.crop(length - cache.get_seq_length())


def can_crop(cache: Cache) -> bool:
    """Tell whether every layer keeps all keys, so that some can be taken out or added."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)
