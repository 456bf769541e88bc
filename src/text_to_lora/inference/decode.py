"""Token by token decoding of one batch that rows enter and leave, each under its own adapter."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from text_to_lora.inference.generate import can_crop
from text_to_lora.inference.prompts import PromptReader, number_adapters, run
from text_to_lora.inference.rows import Layout
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
        self._reader = PromptReader(model)
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
        logits, cache = self._reader.read(
            prompts, adapters, partial(self._adapters.on, self._model, first)
        )
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
        logits, self._cache = run(self._model, ids, mask, lengths[:, None], self._cache)
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


class _RowAdapters:
    """The adapters of all rows in one buffer for each group, which rows enter and leave.

    A row without an adapter has B = 0. Adapters of a lower rank are filled with zeros. Buffers are
    [slots, rows, rank, in] and [slots, rows, rank, out], so that the factors of a slot, and of any
    neighbouring rows in it, lie one after another: torch copies the operands of a batched product
    that do not. That was 103 of the 336 ms of a step of 32 rows (SmolLM2-135M with rank 8, bfloat16,
    one core of a Xeon with AMX, torch 2.13, 2026-11-30).
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
            rank = 0 if adapter is None else adapter.spec.rank
            for group in self._spec.groups:
                a, b = self._a[group.key][:, row], self._b[group.key][:, row]
                if adapter is not None:
                    a[:, :rank] = adapter.a[group.key][0]
                    b[:, :rank] = adapter.b[group.key][0].mT
                if rank < self._spec.rank:
                    a[:, rank:] = 0
                    b[:, rank:] = 0
        self._rows += adapters

    def reorder(self, order: Sequence[int]) -> None:
        """Keep some rows; a row moves to the front or stays."""
        for row, former in enumerate(order):
            if row != former:
                for tensor in (*self._a.values(), *self._b.values()):
                    tensor[:, row] = tensor[:, former]
        self._rows = [self._rows[former] for former in order]
        if not order and self._spec != self._model_spec:  # a blend had made it wider
            self._spec, self._capacity = self._model_spec, 0
            self._a, self._b = {}, {}

    def on(
        self, model: PreTrainedModel, first: int, layout: Layout | None = None
    ) -> AbstractContextManager[None]:
        """Put the adapters of the rows from `first` on the model, for a `with` block.

        layout: of these rows in one sequence; None where each is a row of the batch
        """
        rows = self._rows[first:]
        if all(row is None for row in rows):
            return nullcontext()
        numbers = number_adapters(rows)
        end = len(self._rows) if any(numbers) else first + 1  # one adapter for all
        weights = LoraWeights(
            self._spec,
            {key: tensor[:, first:end].transpose(0, 1) for key, tensor in self._a.items()},
            {key: tensor[:, first:end].permute(1, 0, 3, 2) for key, tensor in self._b.items()},
        )
        if layout is None or layout.segments is None:
            return adapted(model, weights)
        lengths = [segment.tokens for segment in layout.segments]
        return adapted(model, weights, [numbers[row] for row in layout.order], lengths=lengths)

    def _allocate(self, capacity: int, rank: int) -> None:
        """Make room for more rows or a higher rank, and copy what is there."""
        former, count = self._spec.rank, len(self._rows)
        self._spec, self._capacity = self._model_spec.with_rank(rank), capacity
        for group in self._spec.groups:
            slots = len(group.layers), capacity, rank
            a = torch.empty(*slots, group.in_features, **self._like)
            b = torch.empty(*slots, group.out_features, **self._like)
            if count:
                for new, old in ((a, self._a[group.key]), (b, self._b[group.key])):
                    new[:, :count, :former] = old[:, :count]
                    new[:, :count, former:] = 0
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
