"""Losses of reconstruction: L1 on the factors, and L1 on ΔW, of which only blocks ever exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from text_to_lora.hypernet.heads import Factors

# Bytes of the one block of ΔW that exists at a time. A CPU keeps it in its cache: 2 MiB was fastest
# of 1/8 to 8 MiB at 4096 x 4096, and within 5% at 384 x 384 (AMD EPYC, one thread, 2026-11-24).
_BLOCK_BYTES_CPU: Final = 2**21
_BLOCK_BYTES_ELSEWHERE: Final = 2**25  # a GPU needs work for all of its processors

Pair = tuple[Factors, Factors]
"""Per group key A [tasks, slots, rank, in] and B [tasks, slots, out, rank]."""


def factor_loss(predicted: Pair, wanted: Pair) -> Tensor:
    """Mean absolute difference of the factors: A and B count half each, groups count alike.

    Source: Text-to-LoRA (arXiv 2506.06105), released code with `factorized`.
    """
    losses = [
        functional.l1_loss(predicted_side[key], wanted_side[key])
        for predicted_side, wanted_side in zip(predicted, wanted, strict=True)
        for key in predicted_side
    ]
    return torch.stack(losses).mean()


def delta_loss(predicted: Pair, wanted: Pair) -> Tensor:
    """Mean absolute difference of the products B A, over groups that count alike.

    No product ever exists as a whole: blocks of a fixed size are compared one after another, and
    the gradient is made beside the loss. It reaches `predicted` alone, once.

    Source: Text-to-LoRA (arXiv 2506.06105), released code without `factorized`.
    """
    compare: Callable[..., Tensor] = _ProductL1.apply
    (a, b), (wanted_a, wanted_b) = predicted, wanted
    return torch.stack([compare(a[key], b[key], wanted_a[key], wanted_b[key]) for key in a]).mean()


class _ProductL1(torch.autograd.Function):
    """Mean |B A - B' A'| of all tasks and slots of a group, and its gradient in A and B."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, wanted_a: Tensor, wanted_b: Tensor) -> Tensor:
        """A [tasks, slots, rank, in] and B [tasks, slots, out, rank]; A' and B' alike."""
        pairs = [factor.detach().flatten(0, 1) for factor in (a, b, wanted_a, wanted_b)]
        a2, b2, wanted_a2, wanted_b2 = pairs  # [pairs, rank, in], [pairs, out, rank]
        grad_a, grad_b = torch.zeros_like(a2), torch.empty_like(b2)
        total = a.new_zeros((), dtype=torch.float64)
        count, out, width = len(b2), b2.shape[1], a2.shape[2]
        space = a.new_empty(_block_size(width, a.device, a.element_size()))
        for pair, row in _blocks(count, out, width, len(space)):
            left, right = b2[pair, row], a2[pair]
            shape = (len(right), left.shape[1], width)
            block = space[: shape[0] * shape[1] * width].view(shape)
            torch.bmm(wanted_b2[pair, row], wanted_a2[pair], out=block)
            block.baddbmm_(left, right, beta=-1)
            total += torch.linalg.vector_norm(block, 1)
            block.sign_()
            torch.bmm(block, right.mT, out=grad_b[pair, row])
            grad_a[pair].baddbmm_(left.mT, block)
        numbers = count * out * width
        ctx.save_for_backward(grad_a.div_(numbers).view_as(a), grad_b.div_(numbers).view(b.shape))
        return (total / numbers).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what `forward` made, in place: autograd refuses a second pass over it."""
        grad_a, grad_b = ctx.saved_tensors
        return grad_a.mul_(grad), grad_b.mul_(grad), None, None


def _block_size(width: int, device: torch.device, itemsize: int) -> int:
    """Numbers of a block: one row of ΔW at least."""
    bytes_of_block = _BLOCK_BYTES_CPU if device.type == "cpu" else _BLOCK_BYTES_ELSEWHERE
    return max(width, bytes_of_block // itemsize)


def _blocks(pairs: int, out: int, width: int, room: int) -> Iterator[tuple[slice, slice]]:
    """Pairs and rows of all blocks: whole products as many as there is room for, or rows of one."""
    rows = min(out, room // width)
    together = max(1, room // (rows * width)) if rows == out else 1
    for pair in range(0, pairs, together):
        for row in range(0, out, rows):
            yield slice(pair, pair + together), slice(row, row + rows)
