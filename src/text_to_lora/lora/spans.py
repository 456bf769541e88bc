"""LoRA on one sequence in which every span of tokens has an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

# Ranks of neighbouring spans that one product computes. A product this wide takes hardly longer than
# one of a single span, and a sequence needs fewer of them. See `AddBySpans`.
_RANKS_A_PRODUCT = 32


@final
class AddBySpans(torch.autograd.Function):
    """y + scaling · B A x, with an adapter for every span of tokens; y is changed in place.

    y: [..., tokens, out]; x: [..., tokens, in]; a: Aᵀ [spans, in, rank]; b: Bᵀ [spans, rank, out]
    spans: tokens of each, in order

    Neighbouring spans are computed together: their tokens are multiplied with the factors of all of
    them, and a mask sets to zero what belongs to another span's adapter. The function has its own
    backward pass, since these products take as long as what autograd would do around each of them.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float, spans: Sequence[int]
    ) -> Tensor:
        """See the class."""
        flat, flat_y = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        lows = []
        # Zero times infinity is not zero, so adapters that are not finite stay apart from others.
        finite = bool(a.isfinite().all() and b.isfinite().all())
        size = max(1, _RANKS_A_PRODUCT // a.shape[-1]) if finite else 1
        for part in _parts(spans, a, b, scaling, size):
            low = torch.mm(flat[part.tokens], part.a.t()).mul_(part.mask)
            flat_y[part.tokens].addmm_(low, part.b)
            lows.append(low)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, a, b, *lows)
        ctx.scaling, ctx.spans, ctx.size = scaling, spans, size
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x, Aᵀ and Bᵀ."""
        x, a, b, *lows = ctx.saved_tensors
        (dy,) = outputs
        flat, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dx = torch.empty_like(flat) if ctx.needs_input_grad[1] else None
        da, db = a.new_empty(a.mT.shape), b.new_empty(b.shape)
        parts = _parts(ctx.spans, a, b, ctx.scaling, ctx.size)
        for part, low in zip(parts, lows, strict=True):
            dy_part = flat_dy[part.tokens]
            dlow = torch.mm(dy_part, part.b.t()).mul_(part.mask)
            torch.mm(dlow.t(), flat[part.tokens], out=da[part.spans].flatten(0, 1))
            torch.mm(low.t(), dy_part, out=db[part.spans].flatten(0, 1))
            if dx is not None:
                torch.mm(dlow, part.a, out=dx[part.tokens])
        return dy, None if dx is None else dx.view_as(x), da.mT, db, None, None


class _Part(NamedTuple):
    """Neighbouring spans that are computed together.

    spans, tokens: their places
    a, b: their factors below one another, [ranks, in] and [ranks, out]
    mask: the scaling where a rank belongs to the adapter of a token, else zero, [tokens, ranks]
    """

    spans: slice
    tokens: slice
    a: Tensor
    b: Tensor
    mask: Tensor


def _parts(
    spans: Sequence[int], a: Tensor, b: Tensor, scaling: float, size: int
) -> Iterator[_Part]:
    """Cut a sequence into parts of `size` spans."""
    rank, token = a.shape[-1], 0
    for start in range(0, len(spans), size):
        lengths = tuple(spans[start : start + size])
        place = slice(start, start + len(lengths))
        tokens = slice(token, token + sum(lengths))
        token = tokens.stop
        mask = _mask(lengths, rank, scaling, a.dtype, a.device)
        yield _Part(place, tokens, a.mT[place].flatten(0, 1), b[place].flatten(0, 1), mask)


@lru_cache(maxsize=32)  # one step has a few, which all modules share
def _mask(
    lengths: tuple[int, ...], rank: int, scaling: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """See `_Part.mask`."""
    spans = torch.arange(len(lengths))
    of_token = spans.repeat_interleave(torch.tensor(lengths))
    of_rank = spans.repeat_interleave(rank)
    return (scaling * (of_token[:, None] == of_rank)).to(device, dtype)
