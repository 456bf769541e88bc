"""Rows of the demonstration, answered with and without an adapter, and before and after refining."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.inference.answers import answer

Row = tuple[str, str]
"""An input and the answer that is expected."""

MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class DemoTask:
    """A description and its rows, written for the demonstration."""

    description: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Shown:
    """One row with the answers of the base alone and of the adapted base."""

    description: str
    input: str
    expected: str
    base: str
    adapted: str


@dataclass(frozen=True)
class ShownRefinement:
    """Answers to rows that the refinement did not see.

    before: of the adapter of the description alone; after: of the refined adapter
    record: what provenance says of the refinement
    """

    description: str
    rows: tuple[Row, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    record: dict[str, Any]


def demo_tasks() -> list[DemoTask]:
    """All tasks of the demonstration."""
    return [DemoTask(entry["description"], _rows(entry["rows"])) for entry in _read("tasks.json")]


def refine_task() -> tuple[DemoTask, tuple[Row, ...]]:
    """A task whose labels no sentence tells, with the rows to refine on; and the rows to show."""
    entry = _read("refine.json")
    return DemoTask(entry["description"], _rows(entry["rows"])), _rows(entry["shown"])


def show(
    t2l: TextToLora,
    tasks: Sequence[DemoTask],
    adapters: Adapters,
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
    places, inputs, _ = zip(*chosen, strict=True)
    plain = answer(*t2l.base, inputs, max_new_tokens=MAX_NEW_TOKENS)
    adapted = _answer(t2l, inputs, adapters, places)
    return [
        Shown(tasks[place].description, text, expected, before, after)
        for (place, text, expected), before, after in zip(chosen, plain, adapted, strict=True)
    ]


def show_refinement(
    t2l: TextToLora, *, seconds: float | None = 60.0, steps: int | None = None
) -> ShownRefinement:
    """Generate the adapter of `refine_task`, refine it, and answer the shown rows by both.

    seconds, steps: limits of the training, as for `TextToLora.refine`
    """
    task, shown = refine_task()
    before = t2l.generate([task.description])
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="the description of .* leaves out labels"
        )  # meant
        after = t2l.refine([task.description], [task.rows], seconds=seconds, steps=steps)
    inputs = [text for text, _ in shown]
    answers = [_answer(t2l, inputs, adapters, [0] * len(inputs)) for adapters in (before, after)]
    return ShownRefinement(
        task.description,
        shown,
        before=tuple(answers[0]),
        after=tuple(answers[1]),
        record=dict(after.provenance[0]["refinement"]),
    )


def _answer(
    t2l: TextToLora, inputs: Sequence[str], adapters: Adapters, places: Sequence[int]
) -> list[str]:
    """Answer input i by adapter places[i]."""
    weights = adapters.weights
    return answer(*t2l.base, inputs, weights=weights, rows=places, max_new_tokens=MAX_NEW_TOKENS)


def _read(name: str) -> Any:
    return json.loads(files("text_to_lora.demo").joinpath(name).read_text(encoding="utf-8"))


def _rows(pairs: Sequence[Sequence[str]]) -> tuple[Row, ...]:
    return tuple((text, expected) for text, expected in pairs)
