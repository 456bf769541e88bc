"""Prompts read as new rows of a batch, without computing what is known or what stands there twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from text_to_lora.inference import packing
from text_to_lora.inference.generate import cache_name, can_crop, new_cache, pad_left
from text_to_lora.inference.rows import Layout, Rows, contiguous_head, equal_tokens, logits_at
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_MOST_KNOWN: Final = 64
"""Tokens that stay with an adapter. The turn of the system in SmolLM2's template has 23; 64 tokens take
a third of the memory of a rank-8 adapter of SmolLM2-135M."""

_FEWEST_KNOWN: Final = 16
"""Tokens from which on a beginning is of use; fewer are the mark that opens every prompt."""

PutOn = Callable[..., AbstractContextManager[None]]
"""Puts adapters on the model for a `with` block: on rows of a batch, or on those of a `Layout`."""


class PromptReader:
    """Reads prompts as rows of a batch: gives their next logits and a cache, padded on the left.

    Prompts stand one after another in one sequence, where the model takes that, and those of one
    adapter share their beginnings; else each is padded. Where it is less to compute, they are padded
    and start after the tokens with which earlier prompts of their adapter began.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._beginnings = _Beginnings(model)
        packing.takes_packed_rows(model, 1)  # tries it out now, and not while somebody waits

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[LoraWeights | None],
        put_on: PutOn,
    ) -> tuple[Tensor, Any]:
        """Next logits [prompts, vocab], and a cache as wide as the longest prompt."""
        pairs = list(zip(prompts, adapters, strict=True))
        known = [self._beginnings.count(*pair) for pair in pairs]
        rest = max(len(prompt) - count for prompt, count in zip(prompts, known, strict=True))
        layout = self._pack(prompts, adapters)
        if layout is not None and layout.columns <= rest * len(prompts):
            logits, cache = self._read_packed(layout, put_on)
        elif any(known):
            logits, cache = self._continue(prompts, adapters, known, put_on)
        else:
            ids, mask = pad_left(prompts, self._model.device)
            with put_on():
                logits, cache = run(self._model, ids, mask, _positions(mask), None)
        if cache is not None and can_crop(cache):
            self._beginnings.remember(prompts, adapters, cache)
        return logits, cache

    def _pack(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[LoraWeights | None]
    ) -> Layout | None:
        """The prompts in one sequence; None where the model or its cache does not take that."""
        lengths = tuple(map(len, prompts))
        fits = packing.takes_packed_rows(self._model, max(lengths))
        if not fits or not can_crop(new_cache(self._model)):
            return None
        tokens = torch.tensor([token for prompt in prompts for token in prompt])
        rows = Rows(tokens, lengths, (0,) * len(lengths))
        return Layout.packed(rows, number_adapters(adapters), share=True)

    def _read_packed(self, layout: Layout, put_on: PutOn) -> tuple[Tensor, Any]:
        assert layout.segments is not None
        places = [layout.token_places(row) for row in range(len(layout.rows))]
        last = torch.tensor([row[-1] for row in places])
        cache = new_cache(self._model)
        options = layout.inputs() | {"use_cache": True, cache_name(self._model): cache}
        with put_on(layout), packing.packed(self._model, layout.segments):
            logits = logits_at(self._model, last, **options)
        # A row is padded with its own first token, so that another's infinite numbers stay away.
        width = max(layout.rows.lengths)
        index = torch.tensor([row[:1] * (width - len(row)) + row for row in places])
        for layer in cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)[0].index_select(1, index.flatten())
                states = states.unflatten(1, index.shape).transpose(0, 1)  # [rows, heads, ..]
                setattr(layer, name, states.contiguous())
        return logits.float(), cache

    def _continue(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[LoraWeights | None],
        known: Sequence[int],
        put_on: PutOn,
    ) -> tuple[Tensor, Any]:
        """Read prompts after so many tokens of each that are known."""
        device = self._model.device
        rest = [prompt[count:] for prompt, count in zip(prompts, known, strict=True)]
        ids, mask = pad_left(rest, device)
        places = torch.arange(max(known), device=device)
        is_known = places >= max(known) - torch.tensor(known, device=device)[:, None]
        mask = torch.cat((is_known.long(), mask), 1)
        cache = self._beginnings.recall(adapters, known)
        with put_on():
            positions = _positions(mask)[:, max(known) :]
            logits, cache = run(self._model, ids, mask, positions, cache)
        if not mask.all():  # the padding of the rest stands after what is known
            order = mask.argsort(dim=1, stable=True)[:, -max(map(len, prompts)) :]
            for layer in cache.layers:
                for name in ("keys", "values"):
                    states = getattr(layer, name)
                    index = order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                    setattr(layer, name, states.gather(2, index))
        return logits, cache


@dataclass(frozen=True)
class _Beginning:
    """The first tokens of prompts under one adapter; layers: keys and values [heads, tokens, dim]."""

    ids: Sequence[int]
    layers: Sequence[tuple[Tensor, Tensor]]

    def shorten(self, count: int) -> _Beginning:
        """Its first tokens."""
        layers = [(keys[:, :count], values[:, :count]) for keys, values in self.layers]
        return _Beginning(self.ids[:count], layers)


class _Beginnings:
    """What the prompts of each adapter have in common at their start, as long as the adapter lives."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        # The model stands for the base without an adapter.
        self._of: WeakKeyDictionary[LoraWeights | nn.Module, _Beginning] = WeakKeyDictionary()

    def count(self, prompt: Sequence[int], adapter: LoraWeights | None) -> int:
        """Tokens at the start of a prompt, without its last, that are known under its adapter."""
        beginning = self._find(adapter)
        equal = 0 if beginning is None else equal_tokens(beginning.ids, prompt[:-1])
        return equal if equal >= _FEWEST_KNOWN else 0

    def recall(self, adapters: Sequence[LoraWeights | None], counts: Sequence[int]) -> Any:
        """A cache of the first tokens of each row, so many, padded on the left with zeros."""
        rows = [self._find(adapter) for adapter in adapters]
        known = next(row for row in rows if row is not None)
        layers = [(known if row is None else row).layers for row in rows]
        width, cache = max(counts), new_cache(self._model)

        def join(number: int, side: int) -> Tensor:
            states = [row[number][side][:, :n] for row, n in zip(layers, counts, strict=True)]
            return torch.stack([pad(part, (0, 0, width - part.shape[1], 0)) for part in states])

        for number in range(len(known.layers)):
            cache.update(join(number, 0), join(number, 1), number)
        return cache

    def remember(
        self,
        prompts: Sequence[Sequence[int]],
        adapters: Sequence[LoraWeights | None],
        cache: Any,
    ) -> None:
        """Keep what prompts begin with, or shorten what is known to what they have in common with it.

        cache: of the prompts, padded on the left
        """
        width = max(map(len, prompts))
        for row, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
            key = self._model if adapter is None else adapter
            if count := self.count(prompt, adapter):
                if count < min(len(self._of[key].ids), len(prompt) - 1):
                    self._of[key] = self._of[key].shorten(count)
                continue
            ids, start = list(prompt[:_MOST_KNOWN]), width - len(prompt)
            place = slice(start, start + len(ids))
            layers = [
                (layer.keys[row, :, place].clone(), layer.values[row, :, place].clone())
                for layer in cache.layers
            ]
            self._of[key] = _Beginning(ids, layers)

    def _find(self, adapter: LoraWeights | None) -> _Beginning | None:
        return self._of.get(self._model if adapter is None else adapter)


def number_adapters(adapters: Sequence[LoraWeights | None]) -> list[int]:
    """The first row that has the adapter of each row."""
    numbers: dict[LoraWeights | None, int] = {}
    return [numbers.setdefault(adapter, row) for row, adapter in enumerate(adapters)]


def run(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
) -> tuple[Tensor, Any]:
    """Run tokens after those of a cache; gives the last column's logits [rows, vocab], and the cache.

    ids, positions: [rows, seq]; mask: where there are tokens, with those of the cache
    """
    accepted = inspect.signature(model.forward).parameters
    options = {"position_ids": positions, "logits_to_keep": 1}
    options = {name: value for name, value in options.items() if name in accepted}
    options[cache_name(model)] = cache
    with contiguous_head(model):
        output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
    return output.logits[:, -1].float(), output.get(cache_name(model))


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp_min(0)
