"""Validation: the loss of held-out rows under their own description and under another task's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from text_to_lora.tasks.task import Task
from text_to_lora.training.config import DataSection
from text_to_lora.training.data import (
    Batch,
    Descriptions,
    EvalRow,
    RowEncoder,
    eval_batches,
    pick_eval_rows,
)

BATCH_ROWS = 32


@dataclass(frozen=True)
class ValidationSet:
    """Rows of one set as batches.

    matched: with the description of their task; shuffled: with that of another task, without the
        rows that have none
    """

    matched: list[Batch]
    shuffled: list[Batch]

    @classmethod
    def make(
        cls,
        rows: list[EvalRow],
        encoder: RowEncoder,
        descriptions: Descriptions,
        *,
        in_prompt: bool,
        shuffle: bool,
        reads_input: bool = False,
    ) -> ValidationSet:
        """Tokenise the rows; `shuffle` False leaves the shuffled batches out.

        reads_input: adapters are made from inputs instead of descriptions
        """

        def batches(rows: list[EvalRow], texts: list[str]) -> list[Batch]:
            return eval_batches(
                rows, texts, encoder, descriptions, size=BATCH_ROWS, in_prompt=in_prompt
            )

        others = [(row, row.shuffled) for row in rows if shuffle and row.shuffled is not None]
        return cls(
            matched=batches(rows, [row.input if reads_input else row.description for row in rows]),
            shuffled=batches([row for row, _ in others], [text for _, text in others]),
        )


def validation_rows(
    evaluation: Mapping[str, tuple[Task, ...]], data: DataSection
) -> dict[str, list[EvalRow]]:
    """The rows of the validation sets of a run, by name; sets without rows are left out.

    evaluation: tasks of each set, as in TaskSplit; all rows of tasks set aside may serve, of the
        others those that are never trained on
    """
    sets = {}
    for name, tasks in evaluation.items():
        held_out = name != "unseen_tasks"
        rows = pick_eval_rows(tasks, data.eval_rows, seed=data.family_seed, held_out=held_out)
        if rows:
            sets[name] = rows
    return sets


def make_sets(
    rows: Mapping[str, list[EvalRow]],
    encoder: RowEncoder,
    descriptions: Descriptions,
    *,
    in_prompt: bool,
    shuffle: bool,
    reads_input: bool = False,
) -> dict[str, ValidationSet]:
    """The validation sets of `validation_rows`, by name; arguments as for `ValidationSet.make`."""
    return {
        name: ValidationSet.make(
            chosen,
            encoder,
            descriptions,
            in_prompt=in_prompt,
            shuffle=shuffle,
            reads_input=reads_input,
        )
        for name, chosen in rows.items()
    }


def validate(
    sets: Mapping[str, ValidationSet],
    losses: Callable[[Batch], Tensor],
    *,
    process: int,
    processes: int,
    add: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Mean loss of every set, in nats a token: "NAME_loss", "NAME_shuffled", and their "mean_loss".

    losses: gives the loss of each row of a batch; add: sums a tensor over all processes
    """
    metrics: dict[str, float] = {}
    for name, batches in sets.items():
        for key, condition in (("loss", batches.matched), ("shuffled", batches.shuffled)):
            if not condition:
                continue
            sums = torch.zeros(2, dtype=torch.float64)
            for batch in condition[process::processes]:
                rows = losses(batch)  # [batch]
                sums += torch.tensor([rows.cpu().double().sum(), len(rows)], dtype=torch.float64)
            total, count = add(sums).tolist()
            metrics[f"{name}_{key}"] = total / count
    matched = [metrics[f"{name}_loss"] for name in sets]
    metrics["mean_loss"] = sum(matched) / len(matched)
    return metrics
