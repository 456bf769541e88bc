"""Token by token decoding of one batch that rows enter and leave, each under its own adapter."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from text_to_lora.inference.generate import cache_name, can_crop, pad_left
from text_to_lora.inference.rows import contiguous_head
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder:
    """Rows that are continued together, with the keys and values of their tokens.

    spec: of the adapters, whose ranks may be higher

    The caller chooses every next token. Rows of one batch may have unlike adapters or none.
    """

    def __init__(self, model: PreTrainedModel, spec: LoraSpec) -> None:
        self._model = model
        self._adapters = _RowAdapters(spec, model)
        self._cache: Any = None
        self._lengths: list[int] = []  # tokens of each row in the cache
        self._block = ExitStack()
        self._adapted = False

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def can_join(self) -> bool:
        """Whether rows can be added to those that run; not where a cache drops or mixes tokens."""
        return self._cache is None or can_crop(self._cache)

    @torch.inference_mode()
    def add(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[LoraWeights | None]
    ) -> Tensor:
        """Read prompts as new rows, after the others; gives their next logits, [prompts, vocab].

        adapters: a batch of one for each prompt, None for the base

        Raises SpecError when an adapter is for another base.
        """
        self.release()
        first = len(self)
        self._adapters.extend(adapters)
        ids, mask = pad_left(prompts, self._model.device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        with self._adapters.on(self._model, first):
            logits, cache = self._forward(ids, mask, positions, None)
        lengths = list(map(len, prompts))
        if self._cache is None:
            self._cache = cache
        else:
            _join(self._cache, cache, max(self._lengths), max(lengths))
        self._lengths += lengths
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to every row; gives the logits of the next, [rows, vocab]."""
        if not self._adapted:
            self._block.enter_context(self._adapters.on(self._model, 0))
            self._adapted = True
        device = self._model.device
        lengths = torch.tensor(self._lengths, device=device)
        width = max(self._lengths) + 1
        mask = (torch.arange(width, device=device) >= width - 1 - lengths[:, None]).long()
        ids = torch.tensor(tokens, device=device)[:, None]
        logits, self._cache = self._forward(ids, mask, lengths[:, None], self._cache)
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    @torch.inference_mode()
    def remove(self, rows: Collection[int]) -> list[int]:
        """Take rows out; gives the former numbers of those that stay, in their new order."""
        self.release()
        order = list(range(len(self)))
        for row in sorted(rows, reverse=True):
            last = order.pop()
            if row < len(order):
                order[row] = last
        self._adapters.reorder(order)
        width = max(self._lengths, default=0)
        self._lengths = [self._lengths[row] for row in order]
        if not order:
            self._cache = None
            return order
        self._cache.batch_select_indices(torch.tensor(order, device=self._model.device))
        if can_crop(self._cache) and (unused := width - max(self._lengths)):
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
        return order

    def release(self) -> None:
        """Take the adapters off the model until the next step, so that others can use it."""
        self._block.close()
        self._adapted = False

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        accepted = inspect.signature(self._model.forward).parameters
        options = {"position_ids": positions, "logits_to_keep": 1}
        options = {name: value for name, value in options.items() if name in accepted}
        options[cache_name(self._model)] = cache
        with contiguous_head(self._model):
            output = self._model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
        return output.logits[:, -1].float(), output.get(cache_name(self._model))


class _RowAdapters:
    """The adapters of all rows in one buffer for each group, which rows enter and leave.

    A row without an adapter has B = 0. Adapters of a lower rank are filled with zeros.
    """

    def __init__(self, spec: LoraSpec, model: PreTrainedModel) -> None:
        self._model_spec = self._spec = spec
        self._like: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
        self._rows: list[LoraWeights | None] = []
        self._a: dict[str, Tensor] = {}
        self._b: dict[str, Tensor] = {}
        self._capacity = 0

    def extend(self, adapters: Sequence[LoraWeights | None]) -> None:
        """Append rows."""
        rank = max([self._spec.rank, *(a.spec.rank for a in adapters if a is not None)])
        needed = len(self._rows) + len(adapters)
        if needed > self._capacity or rank > self._spec.rank:
            self._allocate(max(needed, min(2 * self._capacity, needed + 8)), rank)
        for row, adapter in enumerate(adapters, len(self._rows)):
            for group in self._spec.groups:
                a, b = self._a[group.key][row], self._b[group.key][row]
                b.zero_()
                if adapter is not None:
                    a[:, adapter.spec.rank :].zero_()
                    a[:, : adapter.spec.rank] = adapter.a[group.key][0]
                    b[:, :, : adapter.spec.rank] = adapter.b[group.key][0]
        self._rows += adapters

    def reorder(self, order: Sequence[int]) -> None:
        """Keep some rows; a row moves to the front or stays."""
        for row, former in enumerate(order):
            if row != former:
                for tensor in (*self._a.values(), *self._b.values()):
                    tensor[row] = tensor[former]
        self._rows = [self._rows[former] for former in order]
        if not order and self._spec != self._model_spec:  # a blend had made it wider
            self._spec, self._capacity = self._model_spec, 0
            self._a, self._b = {}, {}

    def on(self, model: PreTrainedModel, first: int) -> AbstractContextManager[None]:
        """Put the adapters of the rows from `first` on the model, for a `with` block."""
        rows = self._rows[first:]
        if all(row is None for row in rows):
            return nullcontext()
        one_for_all = all(row is rows[0] for row in rows)
        end = first + 1 if one_for_all else len(self._rows)
        weights = LoraWeights(
            self._spec,
            {key: tensor[first:end] for key, tensor in self._a.items()},
            {key: tensor[first:end] for key, tensor in self._b.items()},
        )
        return adapted(model, weights)

    def _allocate(self, capacity: int, rank: int) -> None:
        """Make room for more rows or a higher rank, and copy what is there."""
        former, count = self._spec.rank, len(self._rows)
        self._spec, self._capacity = self._model_spec.with_rank(rank), capacity
        for group in self._spec.groups:
            slots = capacity, len(group.layers)
            a = torch.zeros(*slots, rank, group.in_features, **self._like)
            b = torch.zeros(*slots, group.out_features, rank, **self._like)
            if count:
                a[:count, :, :former] = self._a[group.key][:count]
                b[:count, :, :, :former] = self._b[group.key][:count]
            self._a[group.key], self._b[group.key] = a, b


def _join(cache: Any, new: Any, width: int, new_width: int) -> None:
    """Append the rows of a cache to another, both padded on the left to one width, in tokens."""
    longest = max(width, new_width)
    for layer, added in zip(cache.layers, new.layers, strict=True):
        for name in ("keys", "values"):
            parts = [
                pad(getattr(part, name), (0, 0, longest - part_width, 0))
                for part, part_width in ((layer, width), (added, new_width))
            ]
            setattr(layer, name, torch.cat(parts))
