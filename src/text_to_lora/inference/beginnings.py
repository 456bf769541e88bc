"""Keys and values of what the prompts of an adapter begin with, such as the turn of the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from text_to_lora.inference.generate import new_cache
from text_to_lora.inference.rows import equal_tokens
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST: Final = 64
"""Tokens that stay with an adapter. The turn of the system in SmolLM2's template has 23; 64 tokens take
a third of the memory of a rank-8 adapter of SmolLM2-135M."""

_FEWEST: Final = 16
"""Tokens from which on a beginning is of use; fewer are the mark that opens every prompt."""


@dataclass(frozen=True)
class _Beginning:
    """The first tokens of prompts under one adapter; layers: keys and values [heads, tokens, dim]."""

    ids: Sequence[int]
    layers: Sequence[tuple[Tensor, Tensor]]

    def shorten(self, count: int) -> _Beginning:
        """Its first tokens."""
        layers = [(keys[:, :count], values[:, :count]) for keys, values in self.layers]
        return _Beginning(self.ids[:count], layers)


class Beginnings:
    """What the prompts of each adapter have in common at their start, as long as the adapter lives."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        # The model stands for the base without an adapter.
        self._of: WeakKeyDictionary[LoraWeights | nn.Module, _Beginning] = WeakKeyDictionary()

    def count(self, prompt: Sequence[int], adapter: LoraWeights | None) -> int:
        """Tokens at the start of a prompt, without its last, that are known under its adapter."""
        beginning = self._find(adapter)
        equal = 0 if beginning is None else equal_tokens(beginning.ids, prompt[:-1])
        return equal if equal >= _FEWEST else 0

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
            ids, start = list(prompt[:_MOST]), width - len(prompt)
            place = slice(start, start + len(ids))
            layers = [
                (layer.keys[row, :, place].clone(), layer.values[row, :, place].clone())
                for layer in cache.layers
            ]
            self._of[key] = _Beginning(ids, layers)

    def _find(self, adapter: LoraWeights | None) -> _Beginning | None:
        return self._of.get(self._model if adapter is None else adapter)
