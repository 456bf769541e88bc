"""One forward pass over rows of tokens, with logits of the positions that are asked for alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.nn.functional import pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED: Final = -100
"""Label of columns without a token of an answer."""


def answer_logits(
    model: PreTrainedModel, labels: Tensor, input_ids: Tensor, **options: Any
) -> Tensor:
    """Run rows that end with their answers; give the logits that predict these, row by row.

    labels: answer tokens in the last columns, -100 where there is none, [batch, answer]
    input_ids, options: as for `logits_at`
    Returns [answer tokens, vocab].
    """
    predicts = pad(labels != IGNORED, (0, 1))  # one column to the left; the last predicts nothing
    return logits_at(model, predicts, input_ids, **options)


def logits_at(
    model: PreTrainedModel, positions: Tensor, input_ids: Tensor, **options: Any
) -> Tensor:
    """Run a model and give its logits at some positions, row by row, [positions, vocab].

    positions: whether each of the last columns of the input is asked for, [batch, columns]
    input_ids: [batch, seq]; options: of the model's forward pass; `position_ids` and `use_cache`
        are left out where the model does not take them

    The hidden states of other positions never reach the model's output embeddings, and those that
    do are contiguous: from a slice of the columns, which is what `logits_to_keep` gives, torch
    makes a batched product that copies the matrix of the vocabulary once for every row.
    """
    accepted = inspect.signature(model.forward).parameters
    options["logits_to_keep"] = columns = positions.shape[1]
    for name in ("position_ids", "use_cache", "logits_to_keep"):
        if name not in accepted:
            options.pop(name, None)
    selected = False

    def select(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal selected
        selected = True
        return (args[0][:, -columns:][positions][None], *args[1:])

    head = _head(model)
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        logits: Tensor = model(input_ids=input_ids, **options).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits[0] if selected else logits[:, -columns:][positions]


@contextmanager
def contiguous_head(model: PreTrainedModel) -> Iterator[None]:
    """Hand the model's output embeddings contiguous hidden states; see `logits_at`."""

    def copy(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].contiguous(), *args[1:])

    head = _head(model)
    handle = None if head is None else head.register_forward_pre_hook(copy)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _head(model: PreTrainedModel) -> nn.Module | None:
    """The module that makes logits of hidden states, where a model has one."""
    get_head: Callable[[], nn.Module | None] = model.get_output_embeddings
    return get_head()
