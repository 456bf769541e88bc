"""A family of synthetic tasks, a task of one before it has a name, and the YAML files of wordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import yaml

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


FamilyTexts = Mapping[str, Any]
"""The entry of a family in a YAML file: its `weight` and its wordings.

weight: tasks that the family gives in each round over all families; more where parameters are many
"""
MakeDraft = Callable[[Random, "Source", FamilyTexts], Draft | None]
"""Draws a task; None where the source has nothing to make one of."""


@dataclass(frozen=True, eq=False)  # one object a family, which dictionaries take for a key
class Family:
    """A sort of synthetic tasks."""

    name: str
    texts: FamilyTexts
    make: MakeDraft

    def draft(self, rng: Random, source: Source) -> Draft | None:
        """Draw a task; None where the source has nothing to make one of."""
        return self.make(rng, source, self.texts)


def families_of(file: str, makers: Mapping[str, MakeDraft]) -> tuple[Family, ...]:
    """Give the families whose entries stand in one YAML file, by name."""
    texts = load_texts(file)
    return tuple(Family(name, texts[name], make) for name, make in makers.items())


@cache
def load_texts(name: str) -> Any:
    """Read the file `name`.yaml of this package."""
    return yaml.safe_load((files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"))
