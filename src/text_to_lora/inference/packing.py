"""Attention of rows that stand one after another in one sequence, and which models can take them.

A row of a packed sequence attends to its own tokens alone, and to those of the beginning that it shares
with its neighbours, which stands once. Flash attention of a GPU takes such
sequences too; on a CPU a loop over rows is three times as fast as scaled_dot_product_attention
(34 against 107 ms for 32 rows of 35 to 192 tokens, 9 heads on 3, forward and backward, one core of
an AMD EPYC, torch 2.13, 2026-11-30).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_NAME: Final = "text_to_lora_rows"
# Tokens of the longest row: attention keeps heads x tokens² numbers of it a layer for the backward
# pass, as much as its activations at about this length.
_LONGEST: Final = 512
# What models hand to every attention function and this one need not read.
_HARMLESS: Final = frozenset(
    ("position_ids", "position_embeddings", "use_cache", "is_causal", "output_attentions")
)
_KINDS: Final = frozenset(("full_attention", "sliding_attention"))


class _Unsuited(Exception):
    """A model asks for more than plain causal attention."""


@dataclass(frozen=True)
class Segment:
    """Rows whose first tokens are equal, so that these stand once in a sequence, before the rest.

    prefix: tokens that the rows share, 0 for none; lengths: further tokens of each row
    """

    prefix: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """All tokens of the segment."""
        return self.prefix + sum(self.lengths)


@dataclass(frozen=True)
class _Fit:
    """Whether a model can take packed rows, and the most tokens that one of them may have."""

    exact: bool
    longest: int | None


_fits: WeakKeyDictionary[nn.Module, _Fit] = WeakKeyDictionary()


@final
class _RowAttention(threading.local):
    """The attention function that is registered with transformers; each thread has its own numbers.

    segments: the rows of the running sequence
    calls: how often it ran; window: the shortest sliding window that it was called with, in tokens
    """

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()
        self.calls = 0
        self.window: int | None = None

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Query [1, heads, tokens, dim] to [1, tokens, heads, dim]; no attention weights."""
        unread = {k for k, v in options.items() if v is not None and k not in _HARMLESS}
        tokens = sum(segment.tokens for segment in self.segments)
        if unread or attention_mask is not None or dropout or query.shape[2] != tokens:
            raise _Unsuited
        self.calls += 1
        if sliding_window is not None:
            self.window = min(sliding_window, self.window or sliding_window)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        attend: Any = _Attend.apply
        return attend(query[0], key[0], value[0], self.segments, scale)[None], None


_attention: Final = _RowAttention()
AttentionInterface.register(_NAME, _attention)


@contextmanager
def packed(model: PreTrainedModel, segments: Sequence[Segment]) -> Iterator[None]:
    """Let a model read sequences of rows one after another, inside the block.

    Inputs are [1, tokens], without attention mask, with the positions that the tokens have in their
    rows.
    """
    config: Any = model.config.get_text_config(decoder=True)
    implementation, previous = config._attn_implementation, _attention.segments
    config._attn_implementation, _attention.segments = _NAME, tuple(segments)
    try:
        yield
    finally:
        config._attn_implementation, _attention.segments = implementation, previous


def takes_packed_rows(model: PreTrainedModel, longest: int) -> bool:
    """Whether a model gives rows in one sequence what it gives them one by one.

    longest: tokens of the longest row

    Found out by running a few tokens once: every layer has to attend by the registered function,
    without anything that this does not know; the tokens of one row may not move those of another,
    bit by bit; and positions have to count. Rows of more than 512 tokens are padded, and so are all
    on a GPU, since there a loop over rows is slower than the padding.
    """
    if model.device.type != "cpu" or longest > _LONGEST:
        return False
    if model not in _fits:
        _fits[model] = _try_out(model)
    fit = _fits[model]
    return fit.exact and (fit.longest is None or longest <= fit.longest)


@torch.no_grad()
def _try_out(model: PreTrainedModel) -> _Fit:
    config: Any = model.config.get_text_config(decoder=True)
    none = _Fit(exact=False, longest=None)
    if not set(getattr(config, "layer_types", None) or ()) <= _KINDS or getattr(
        config, "attention_chunk_size", None
    ):
        return none
    tokens = torch.arange(8, device=model.device).remainder(config.vocab_size)
    first, other, second = tokens[:3], tokens[2:5], tokens[3:8]
    _attention.calls, _attention.window = 0, None
    try:
        one, two = (_run_packed(model, (row, second)) for row in (first, other))
        moved = _run_packed(model, (second, first))[: len(second)]
    except (_Unsuited, TypeError, ValueError, KeyError):
        return none
    alone = model(input_ids=second[None], use_cache=False).logits[0]
    after = one[len(first) :]
    # Products of another shape and another attention function round otherwise, through many layers:
    # in bfloat16 by 0.115 on a CPU with AMX. A row at another place of an equal input hardly does.
    close = {torch.float64: 1e-9, torch.float32: 1e-3}.get(model.dtype, 0.3)
    exact = (
        _attention.calls == 3 * config.num_hidden_layers
        and torch.equal(after, two[len(other) :])
        and float((after - moved).norm()) <= close / 4 * float(alone.norm())
        and float((after - alone).norm()) <= close * float(alone.norm())
    )
    return _Fit(exact, _attention.window)


def _run_packed(model: PreTrainedModel, rows: Sequence[Tensor]) -> Tensor:
    """Logits of rows in one sequence, [tokens, vocab]."""
    positions = torch.cat([torch.arange(len(row), device=row.device) for row in rows])
    with packed(model, [Segment(0, (len(row),)) for row in rows]):
        logits: Tensor = model(
            input_ids=torch.cat(list(rows))[None], position_ids=positions[None], use_cache=False
        ).logits
    return logits[0]


@lru_cache(maxsize=1024)
def _causal_mask(
    prefix: int, length: int, heads: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Minus infinity where a key is after its query, [1, heads · length, prefix + length]."""
    mask = torch.full((length, prefix + length), -torch.inf, dtype=dtype, device=device)
    return mask.triu(prefix + 1).repeat(heads, 1)[None]


def _parts(segments: Sequence[Segment]) -> Iterator[tuple[slice, slice]]:
    """Places of the tokens that attend together, and of those before them that they attend to as well.

    The shared beginning of a segment comes before the rest of its rows.
    """
    start = 0
    for segment in segments:
        shared = slice(start, start + segment.prefix)
        if segment.prefix:
            yield shared, slice(start, start)
        start += segment.prefix
        for length in segment.lengths:
            yield slice(start, start + length), shared
            start += length


class _Attend(torch.autograd.Function):
    """Causal attention within each row, with several query heads on each key head.

    query: [heads, tokens, dim]; key, value: [key heads, tokens, dim]; gives [tokens, heads, dim].
    The queries on one key head stand below one another in the products, so that keys and values
    are not repeated.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
    ) -> Tensor:
        """See the class."""
        heads, tokens, dim = query.shape
        key_heads = len(key)
        output = query.new_empty(tokens, heads, value.shape[-1])
        shares = []
        for place, shared in _parts(segments):
            q = query[:, place].reshape(
                key_heads, -1, dim
            )  # [key heads, query heads · length, dim]
            k, v = _joined(key, shared, place), _joined(value, shared, place)
            length, prefix = place.stop - place.start, shared.stop - shared.start
            mask = _causal_mask(prefix, length, heads // key_heads, q.dtype, q.device)
            share = torch.baddbmm(mask, q, k.mT, alpha=scale).softmax(-1)
            output[place] = torch.bmm(share, v).view(heads, length, -1).transpose(0, 1)
            shares.append(share)
        ctx.save_for_backward(query, key, value, *shares)
        ctx.segments, ctx.scale = segments, scale
        return output

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, *shares = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(tensor) for tensor in (query, key, value))
        for (place, shared), share in zip(_parts(ctx.segments), shares, strict=True):
            q = query[:, place].reshape(len(key), -1, query.shape[-1])
            k, v = _joined(key, shared, place), _joined(value, shared, place)
            out = outputs[0][place].transpose(0, 1).reshape(len(key), -1, value.shape[-1])
            moved = torch.bmm(out, v.mT)
            moved = torch._softmax_backward_data(moved, share, -1, share.dtype).mul_(ctx.scale)
            dq[:, place] = torch.bmm(moved, k).view(len(query), -1, query.shape[-1])
            for gradient, part in ((dk, torch.bmm(moved.mT, q)), (dv, torch.bmm(share.mT, out))):
                prefix = shared.stop - shared.start
                gradient[:, place] = part[:, prefix:]
                if prefix:
                    gradient[:, shared] += part[:, :prefix]
        return dq, dk, dv, None, None


def _joined(tensor: Tensor, shared: slice, place: slice) -> Tensor:
    """The tokens of a shared beginning and those of a place, [heads, tokens, dim]."""
    if shared.start == shared.stop:
        return tensor[:, place]
    return torch.cat((tensor[:, shared], tensor[:, place]), 1)
