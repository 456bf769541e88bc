"""Draw demo rows, answer them with and without the generated adapter, count the right ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from text_to_lora.generate import Adapters
from text_to_lora.inference.answers import answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class DemoTask:
    """A description and rows of (input, expected answer), written for the demonstration."""

    description: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shown:
    """One row of the demonstration."""

    description: str
    input: str
    expected: str
    base: str
    adapted: str

    @property
    def base_right(self) -> bool:
        """Whether the base alone gives the expected answer, spelling and case included."""
        return self.base == self.expected

    @property
    def adapted_right(self) -> bool:
        """Whether the adapted model does."""
        return self.adapted == self.expected


def demo_tasks() -> list[DemoTask]:
    """All tasks of the demonstration."""
    text = files("text_to_lora.demo").joinpath("tasks.json").read_text(encoding="utf-8")
    return [
        DemoTask(entry["description"], tuple((row[0], row[1]) for row in entry["rows"]))
        for entry in json.loads(text)
    ]


def show(
    tasks: Sequence[DemoTask],
    adapters: Adapters,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows_per_task: int,
    seed: int,
) -> list[Shown]:
    """Answer `rows_per_task` rows of every task, drawn by `seed`; adapter i is for task i."""
    draw = random.Random(seed)
    chosen = [
        (place, *row)
        for place, task in enumerate(tasks)
        for row in draw.sample(task.rows, min(rows_per_task, len(task.rows)))
    ]
    inputs = [text for _, text, _ in chosen]
    places = [place for place, _, _ in chosen]
    plain = answer(base, tokenizer, inputs, max_new_tokens=16)
    moved = answer(
        base, tokenizer, inputs, weights=adapters.weights, rows=places, max_new_tokens=16
    )
    return [
        Shown(tasks[place].description, text, expected, before, after)
        for (place, text, expected), before, after in zip(chosen, plain, moved, strict=True)
    ]
