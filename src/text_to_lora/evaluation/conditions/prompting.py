"""The base model alone, told what to do in the prompt, or shown examples there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Self, final

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions.condition import SHOTS, Condition, Setup, Sources
from text_to_lora.tasks.task import Example, Row, Task


@final
class Base(Condition):
    """The base model as it is."""

    kind = "base"
    title = "the base model alone"


@final
class InPrompt(Condition):
    """The base model with the task's definition in the prompt."""

    kind = "in_prompt"
    title = "the base with the description in the prompt"
    in_prompt = True


@final
class InContext(Condition):
    """The base model with solved examples of the task in the prompt, no description.

    shots: how many; the same for all rows of a task, drawn by the seed from its support rows
        (idx % 10 < 5), which are never scored

    Raises ConfigError for less than one.
    """

    kind = "icl"
    title = "the base with examples of the task in the prompt"

    def __init__(self, *, shots: int = SHOTS, seed: int = 0) -> None:
        if shots < 1:
            raise ConfigError(f"shots is {shots}; give at least 1, or leave 'icl' out")
        self._shots = shots
        self._seed = seed

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """See Condition.make."""
        return [cls(shots=sources.shots, seed=sources.seed)]

    @property
    def about(self) -> Mapping[str, Any]:
        """How many examples, and from where."""
        return {"shots": self._shots, "rows": "support, idx % 10 < 5", "seed": self._seed}

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """The task's shots in the prompt; rows of tasks without support rows are left out."""
        drawn = {row.task.name: self.draw(row.task) for row in rows}
        return [Setup(shots=shots) if (shots := drawn[row.task.name]) else None for row in rows]

    def draw(self, task: Task) -> tuple[Example, ...]:
        """The examples shown for a task, in the order of the prompt; all it has if too few."""
        pool = sorted(task.support(), key=lambda example: example.idx)
        rng = Random(f"shots/{self._seed}/{task.name}")
        return tuple(rng.sample(pool, min(self._shots, len(pool))))
