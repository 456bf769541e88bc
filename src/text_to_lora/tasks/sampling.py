"""Which rows make up a batch: a pure function of seed and step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from random import Random

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.tasks.task import Task


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One training row; the indices are places in the sampler's tasks and a task's descriptions."""

    task_index: int
    description_index: int
    input: str
    output: str


class TaskSampler:
    """Draw batches of tasks × examples, each row with one random description of its task.

    family_share: at least this share of the rows up to any step is of families (tasks whose source
    begins with "family:"), and at most one task more; None: draw from all tasks alike
    one_description: the rows of a task in a step share one description, and so one adapter

    Rows with idx % 10 != 9 are drawn. Real tasks and families are each drawn without replacement
    until all have come, then anew.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        tasks_per_batch: int,
        examples_per_task: int,
        family_share: float | None = 0.3,
        seed: int = 0,
        one_description: bool = False,
    ) -> None:
        if tasks_per_batch < 1 or examples_per_task < 1:
            raise ConfigError(
                f"a batch of {tasks_per_batch} tasks × {examples_per_task} examples; give 1 or more"
            )
        if family_share is not None and not 0 <= family_share <= 1:
            raise ConfigError(f"family_share is {family_share}; give a share from 0 to 1")
        self.tasks = tuple(tasks)
        self.tasks_per_batch = tasks_per_batch
        self.examples_per_task = examples_per_task
        self.seed = seed
        self._one_description = one_description
        self._examples = {
            index: rows for index, task in enumerate(self.tasks) if (rows := task.training())
        }
        if left_out := len(self.tasks) - len(self._examples):
            warnings.warn(
                f"{left_out} of {len(self.tasks)} tasks have no training rows (idx % 10 != 9) and are "
                "left out",
                T2LWarning,
                stacklevel=2,
            )
        families = [i for i in self._examples if self.tasks[i].source.startswith("family:")]
        self._share = Fraction(0) if family_share is None else Fraction(str(family_share))
        self._families = [] if family_share is None else families
        self._others = sorted(self._examples.keys() - set(self._families))
        if self._share > 0 and not self._families:
            raise ConfigError(
                f"family_share is {family_share}, but no task is of a family; "
                "add families(...) to the tasks or set it to 0"
            )
        if self._share < 1 and not self._others:
            raise ConfigError("no task outside the families has training rows; add tasks")

    def batch(self, step: int) -> list[TrainingRow]:
        """Give the rows of a step, counted from 0; the rows of one task stand together."""
        rng = Random(f"{self.seed}/batch/{step}")
        first, stop = self._families_before(step), self._families_before(step + 1)
        start = step * self.tasks_per_batch
        drawn = [self._draw("families", self._families, place) for place in range(first, stop)]
        drawn += [
            self._draw("others", self._others, place)
            for place in range(start - first, start + self.tasks_per_batch - stop)
        ]
        rng.shuffle(drawn)
        return [row for index in drawn for row in self._rows(index, rng)]

    def _families_before(self, step: int) -> int:
        """Count the families drawn in all steps before this one."""
        return ceil(step * self.tasks_per_batch * self._share)

    def _draw(self, name: str, pool: Sequence[int], place: int) -> int:
        epoch, offset = divmod(place, len(pool))
        return pool[_order(f"{self.seed}/{name}/{epoch}", len(pool))[offset]]

    def _rows(self, index: int, rng: Random) -> list[TrainingRow]:
        examples, count = self._examples[index], self.examples_per_task
        drawn = (
            rng.sample(examples, count)
            if count <= len(examples)
            else rng.choices(examples, k=count)
        )
        descriptions = len(self.tasks[index].descriptions)
        shared = rng.randrange(descriptions) if self._one_description else None
        return [
            TrainingRow(
                index,
                rng.randrange(descriptions) if shared is None else shared,
                row.input,
                rng.choice(row.outputs),
            )
            for row in drawn
        ]


@lru_cache(maxsize=8)
def _order(seed: str, count: int) -> tuple[int, ...]:
    return tuple(Random(seed).sample(range(count), count))
