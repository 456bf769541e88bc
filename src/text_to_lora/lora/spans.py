"""LoRA on one sequence in which every span of tokens has an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor


@final
class AddBySpans(torch.autograd.Function):
    """y + scaling · B A x, with an adapter for every span of tokens; y is changed in place.

    y: [..., tokens, out]; x: [..., tokens, in]; a: Aᵀ [spans, in, rank]; b: Bᵀ [spans, rank, out]
    spans: tokens of each, in order

    One function with its own backward pass, since the products of a span take as long as what
    autograd would do around each of them.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float, spans: Sequence[int]
    ) -> Tensor:
        """See the class."""
        flat = x.reshape(-1, x.shape[-1])
        low = flat.new_empty(len(flat), a.shape[-1])
        for place, (part, out) in enumerate(_by_span(spans, flat, low)):
            torch.mm(part, a[place], out=out)
        for place, (out, part) in enumerate(_by_span(spans, y.view(-1, y.shape[-1]), low)):
            out.addmm_(part, b[place], alpha=scaling)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, low, a, b)
        ctx.scaling, ctx.spans = scaling, spans
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of y, x, Aᵀ and Bᵀ."""
        x, low, a, b = ctx.saved_tensors
        (dy,) = outputs
        flat, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dx = torch.empty_like(flat) if ctx.needs_input_grad[1] else None
        da, db, dlow = torch.empty_like(a.mT).mT, torch.empty_like(b.mT).mT, torch.empty_like(low)
        for place, (dy_part, out) in enumerate(_by_span(ctx.spans, flat_dy, dlow)):
            torch.mm(dy_part, b[place].t(), out=out)
        dlow.mul_(ctx.scaling)
        scaled_low = low * ctx.scaling
        parts = _by_span(ctx.spans, flat, scaled_low, flat_dy, dlow)
        for place, (part, low_part, dy_part, dlow_part) in enumerate(parts):
            torch.mm(dlow_part.t(), part, out=da[place].t())
            torch.mm(dy_part.t(), low_part, out=db[place].t())
        if dx is not None:
            for place, (out, dlow_part) in enumerate(_by_span(ctx.spans, dx, dlow)):
                torch.mm(dlow_part, a[place].t(), out=out)
        return dy, None if dx is None else dx.view_as(x), da, db, None, None


def _by_span(spans: Sequence[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tokens of every span, of each tensor [tokens, width]."""
    return zip(*(torch.split(tensor, list(spans)) for tensor in tensors), strict=True)
