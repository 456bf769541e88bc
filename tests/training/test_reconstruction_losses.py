"""Losses of reconstruction: equal to what one would write down, without ever holding a ΔW."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from text_to_lora.training import reconstruction_losses
from text_to_lora.training.reconstruction_losses import Pair, delta_loss, factor_loss

SHAPES = {"q": (12, 20, 3), "v": (12, 6, 2), "down": (18, 12, 1)}  # in, out, slots
TASKS, RANK = 3, 2


def draw(*, head: bool = False, dtype: torch.dtype = torch.float64) -> Pair:
    """Factors of three adapters; `head` gives B the strides that the M and S heads give it."""
    a = {
        key: torch.randn(TASKS, slots, RANK, width, dtype=dtype)
        for key, (width, _, slots) in SHAPES.items()
    }
    b = {
        key: torch.randn(TASKS, slots, RANK, out, dtype=dtype).mT
        for key, (_, out, slots) in SHAPES.items()
    }
    return a, b if head else {key: factor.contiguous() for key, factor in b.items()}


def naive(predicted: Pair, wanted: Pair) -> Tensor:
    means = [
        ((predicted[1][key] @ predicted[0][key]) - (wanted[1][key] @ wanted[0][key])).abs().mean()
        for key in predicted[0]
    ]
    return sum(means, torch.zeros(())) / len(means)


def with_gradients(loss: Any, predicted: Pair, wanted: Pair) -> tuple[Tensor, list[Tensor]]:
    leaves = [factor.detach().requires_grad_() for side in predicted for factor in side.values()]
    size = len(SHAPES)
    a = dict(zip(SHAPES, leaves[:size], strict=True))
    b = dict(zip(SHAPES, leaves[size:], strict=True))
    value = 3 * loss((a, b), wanted)  # a factor, so that the gradient from above counts
    return value.detach(), list(torch.autograd.grad(value, leaves))


def test_factor_loss_halves_the_sides_and_averages_the_groups() -> None:
    predicted, wanted = draw(), draw()
    expected = 0.0
    for key in SHAPES:
        a = sum((predicted[0][key] - wanted[0][key]).abs().flatten().tolist())
        b = sum((predicted[1][key] - wanted[1][key]).abs().flatten().tolist())
        expected += (a / wanted[0][key].numel() / 2 + b / wanted[1][key].numel() / 2) / len(SHAPES)
    assert factor_loss(predicted, wanted).item() == pytest.approx(expected, rel=1e-12)


# Bytes of a block in fp64: a row of one product; some rows; one product; several; all of them.
@pytest.mark.parametrize("room", [8, 8 * 40, 8 * 240, 8 * 700, 2**20])
@pytest.mark.parametrize("head", [False, True])
def test_delta_loss_and_gradient_equal_the_naive_ones(
    room: int, head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction_losses, "_BLOCK_BYTES_CPU", room)
    predicted, wanted = draw(head=head), draw()
    expected, expected_gradients = with_gradients(naive, predicted, wanted)
    value, gradients = with_gradients(delta_loss, predicted, wanted)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


def test_delta_loss_of_equal_products_is_zero_and_so_is_its_gradient() -> None:
    a = {"q": torch.ones(1, 1, 2, 3)}
    b = {"q": torch.ones(1, 1, 4, 2)}
    leaves = [a["q"].clone().requires_grad_(), b["q"].clone().requires_grad_()]
    loss = delta_loss(({"q": leaves[0]}, {"q": leaves[1]}), (a, b))
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, leaves))


def test_a_gradient_is_given_once() -> None:
    predicted, wanted = draw(), draw()
    predicted[0]["q"].requires_grad_()
    loss = delta_loss(predicted, wanted)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


class Memory(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if type(t) is Tensor}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in self._known | given:
                    self._known.add(id(storage))
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.now -= nbytes


def peak_beyond_gradients(loss: Any, predicted: Pair, wanted: Pair) -> int:
    leaves = [factor.requires_grad_() for side in predicted for factor in side.values()]
    with Memory() as memory:
        loss(predicted, wanted).backward()
    assert all(leaf.grad is not None for leaf in leaves)
    return memory.peak - sum(leaf.nbytes for leaf in leaves)


def test_delta_loss_adds_a_block_and_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of 3 adapters x 2 slots, so that a product of one slot is 64 blocks."""
    block = 2**16
    monkeypatch.setattr(reconstruction_losses, "_BLOCK_BYTES_CPU", block)

    def draw() -> Pair:
        a = {key: torch.randn(3, 2, 4, 1024) for key in "qv"}
        return a, {key: torch.randn(3, 2, 1024, 4) for key in "qv"}

    product = 1024 * 1024 * 4
    assert peak_beyond_gradients(naive, draw(), draw()) > 6 * product  # what is measured is real
    # The block, and the part of B's gradient that belongs to its rows.
    assert peak_beyond_gradients(delta_loss, draw(), draw()) <= 1.5 * block
