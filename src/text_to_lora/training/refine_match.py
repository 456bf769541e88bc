"""Whether rows and description are of one task: a check against adapters of unrelated sentences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Final

import torch

from text_to_lora.errors import T2LWarning
from text_to_lora.inference.rows import answer_logits
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.user_rows import Rows
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.losses import answer_losses
from text_to_lora.training.refine_settings import RefineTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNRELATED: Final = (
    "Answer the question.",
    "Translate the text into French.",
    "Name the colour of the thing.",
)
"""Sentences that most tasks are not; their adapters are what a description is compared with.

`benchmarks.studies.mismatch` measures how often the comparison is right.
"""
_ROWS: Final = 4  # of a task, which keeps the check about as long as two steps of training


def warn_of_mismatch(
    tasks: Sequence[RefineTask],
    adapters: LoraWeights,
    unrelated: LoraWeights,
    base: PreTrainedModel,
    encoder: RowEncoder,
) -> None:
    """Warn of each task whose rows suit the adapter of an unrelated sentence better than its own.

    adapters: of the descriptions, one a task, which no row has trained yet
    unrelated: of UNRELATED, in this order
    """
    for place, task in enumerate(tasks):
        rows = Random("mismatch").sample(task.rows, min(_ROWS, len(task.rows)))
        loss, *others = (
            mean_loss(tuple(rows), adapter, base, encoder)
            for adapter in (adapters.narrow(place, 1), *unrelated.unbind())
        )
        best = min(range(len(others)), key=lambda number: others[number])
        if loss > others[best]:
            warnings.warn(
                f"the adapter of {UNRELATED[best]!r} suits the rows of {task.name} better "
                f"({others[best]:.2f} nats a token) than that of the description ({loss:.2f}): rows "
                "and description may be of different tasks, or the description is not understood; "
                "check both, or describe the task in other words",
                T2LWarning,
                stacklevel=4,
            )


@torch.no_grad()
def mean_loss(
    rows: Rows, adapter: LoraWeights, base: PreTrainedModel, encoder: RowEncoder
) -> float:
    """The mean over rows of the cross-entropy of their answers under one adapter, in nats a token."""
    joined = encoder.join((*row, None) for row in rows).to(base.device)
    with answer_logits(base, joined, adapter) as logits:
        return float(answer_losses(logits, joined).mean())
