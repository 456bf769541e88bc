"""Validation: the loss of held-out rows under their own description and under another task's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Final

import torch
from torch import Tensor

from text_to_lora.tasks.task import Task
from text_to_lora.training.batches import Batch, Part, split_by_length
from text_to_lora.training.config import DataSection
from text_to_lora.training.encoding import RowEncoder, TextEmbeddings

BATCH_ROWS: Final = 32


@dataclass(frozen=True)
class ValidationRow:
    """A validation row.

    task: where it is from; description: of its task; shuffled: of a task of another source group
        and other labels, None where there is no such task
    """

    task: Task
    input: str
    output: str
    description: str
    shuffled: str | None


def pick_rows(
    tasks: Sequence[Task], count: int, *, seed: int, held_out: bool = True
) -> list[ValidationRow]:
    """Draw about equally many rows of every task, `count` in all or as many as there are.

    held_out: take rows with idx % 10 == 9 only, as tasks that are trained on need
    """
    rng = Random(f"{seed}/evaluation")
    pools = []
    for task, other in zip(tasks, _other_tasks(tasks), strict=True):
        examples = list(task.validation() if held_out else task.examples)
        rng.shuffle(examples)
        pools.append((task, other, examples))
    rng.shuffle(pools)
    rows: list[ValidationRow] = []
    for place in range(max((len(examples) for *_, examples in pools), default=0)):
        for task, other, examples in pools:
            if place < len(examples) and len(rows) < count:
                example = examples[place]
                description = rng.choice(task.descriptions)
                shuffled = None if other is None else rng.choice(other.descriptions)
                rows.append(
                    ValidationRow(task, example.input, example.outputs[0], description, shuffled)
                )
    return rows


def _other_tasks(tasks: Sequence[Task]) -> list[Task | None]:
    """For each task one of another source group and other labels, about half the list away."""

    def differ(task: Task, other: Task) -> bool:
        groups_differ = other.group != task.group or not task.group
        labels_differ = other.metric.labels != task.metric.labels or not task.metric.labels
        return other is not task and groups_differ and labels_differ

    others: list[Task | None] = []
    for place, task in enumerate(tasks):
        start = place + len(tasks) // 2
        candidates = (tasks[(start + shift) % len(tasks)] for shift in range(len(tasks)))
        others.append(next((other for other in candidates if differ(task, other)), None))
    return others


def validation_rows(
    evaluation: Mapping[str, tuple[Task, ...]], data: DataSection
) -> dict[str, list[ValidationRow]]:
    """The rows of the validation sets of a run, by name; sets without rows are left out.

    evaluation: tasks of each set, as in TaskSplit; all rows of tasks held out may serve, of the
        others those that are never trained on
    """
    sets = {
        name: pick_rows(
            tasks, data.eval_rows, seed=data.family_seed, held_out=name != "unseen_tasks"
        )
        for name, tasks in evaluation.items()
    }
    return {name: rows for name, rows in sets.items() if rows}


def make_batches(
    rows: Sequence[ValidationRow],
    descriptions: Sequence[str],
    encoder: RowEncoder,
    embeddings: TextEmbeddings,
    *,
    size: int = BATCH_ROWS,
) -> list[Batch]:
    """Validation rows as batches of up to `size` rows of like length.

    descriptions: of each row, to make its adapter from
    """
    prompts = [encoder.prompt_row(row.input, row.output, row.task) for row in rows]
    lengths = [encoder.length(prompt) for prompt in prompts]
    batches = []
    for places in split_by_length(lengths, ceil(len(rows) / size)):
        texts = [embeddings.text(rows[place].input, descriptions[place]) for place in places]
        vectors, adapters = embeddings.batch(texts)
        names = tuple(rows[place].task.name for place in places)
        part = Part(encoder.join(prompts[place] for place in places), adapters, names)
        batches.append(Batch((part,), vectors, tuple(dict.fromkeys(texts)), len(places)))
    return batches


def validation_batches(
    name: str,
    rows: Sequence[ValidationRow],
    encoder: RowEncoder,
    embeddings: TextEmbeddings,
    *,
    shuffle: bool,
) -> dict[str, list[Batch]]:
    """Rows of one set as batches, by the name of the figure that `validate` makes of them.

    "NAME_loss" has them with the description of their task; "NAME_shuffled" with that of another
    task, without the rows that have none, and not at all where `shuffle` is False.
    """
    batches = {
        f"{name}_loss": make_batches(rows, [row.description for row in rows], encoder, embeddings)
    }
    others = [(row, row.shuffled) for row in rows if row.shuffled is not None]
    if shuffle and others:
        shuffled_rows, texts = zip(*others, strict=True)
        batches[f"{name}_shuffled"] = make_batches(shuffled_rows, texts, encoder, embeddings)
    return batches


def validate(
    sets: Mapping[str, Sequence[Batch]],
    losses: Callable[[Batch], Tensor],
    *,
    process: int,
    processes: int,
    add: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Mean loss of all batches of a name, in nats a token, and "mean_loss" over the names in "_loss".

    sets: as `validation_batches` gives them
    losses: gives the loss of each row of a batch; add: sums a tensor over all processes
    """
    metrics: dict[str, float] = {}
    for name, batches in sets.items():
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in batches[process::processes]:
            rows = losses(batch)  # [batch]
            sums += torch.tensor([rows.cpu().double().sum(), len(rows)], dtype=torch.float64)
        total, count = add(sums).tolist()
        metrics[name] = total / count
    matched = [value for name, value in metrics.items() if name.endswith("_loss")]
    metrics["mean_loss"] = sum(matched) / len(matched)
    return metrics
