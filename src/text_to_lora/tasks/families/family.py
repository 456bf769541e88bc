"""A family of synthetic tasks, and a task of one before it has a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from text_to_lora.tasks.task import Metric, Task

if TYPE_CHECKING:
    from text_to_lora.tasks.families.source import Source

Split = Literal["train", "validation"]

SyntheticRow = tuple[str, tuple[str, ...], int]
"""A row of a synthetic task: input, outputs, last digit of its idx."""

DESCRIPTIONS_PER_TASK = 16
EXACT_MATCH = Metric("exact_match")


@dataclass(frozen=True)
class Draft:
    """A synthetic task before it has a name.

    origin: the real task whose rows it has, None where it has rows of many tasks
    """

    descriptions: tuple[str, ...]
    rows: Sequence[SyntheticRow]
    metric: Metric = EXACT_MATCH
    origin: Task | None = None


@dataclass(frozen=True)
class Family:
    """A kind of synthetic task.

    weight: tasks that the family gives in each round over all families; more where parameters are
        many
    make: draws a task; None where the source has nothing to make one of
    """

    name: str
    explanation: str
    weight: int
    make: Callable[[Random, Source], Draft | None]

    @classmethod
    def described(
        cls,
        name: str,
        texts: Mapping[str, Any],
        make: Callable[[Random, Source], Draft | None],
    ) -> Family:
        """Make the family that an entry of a YAML file explains and weighs."""
        return cls(name, texts["explanation"], texts["weight"], make)
