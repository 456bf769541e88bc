"""Comparison: one condition minus another on the rows that both have, with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from text_to_lora.evaluation.measures import MEASURES
from text_to_lora.evaluation.samples import Sample
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap, Interval

Key = tuple[str, int]
"""Task and idx of a row."""

Values = Mapping[Key, float]
"""Value of each row that has one."""


EVEN = 1e-9
"""Means of a task that differ by less are equal: sums of the same values, rounded apart."""


@dataclass(frozen=True)
class Comparison:
    """Paired difference of one condition minus another, in one measure.

    rows: that have a finite value under both; left_out: the others of those that both have
    tasks_better: tasks where the first is better: a lower nll, more of anything else
    tasks_equal: tasks where the means are the same
    """

    measure: str
    difference: Interval
    tasks: int
    tasks_better: int
    tasks_equal: int
    rows: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **interval_dict(self.difference),
            "clear_of_zero": self.difference.clear_of_zero,
            "tasks": self.tasks,
            "tasks_better": self.tasks_better,
            "tasks_equal": self.tasks_equal,
            "rows": self.rows,
            "rows_left_out": self.left_out,
        }


def compare_conditions(
    samples: Iterable[Sample],
    than: Iterable[Sample],
    *,
    measure: str = "nll",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two conditions on the rows that both have, with a 95% bootstrap over groups.

    Several samples of a row, as of three derangements, are averaged first. A task's difference is
    the mean over its rows, a group's that over its tasks, and every group counts once.

    measure: a name of MEASURES

    Raises ConfigError when they have no row in common.
    """
    samples, than = list(samples), list(than)
    groups = {sample.task: sample.group for sample in (*samples, *than)}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    return compare_values(values_of(samples, measure), values_of(than, measure), measure, bootstrap)


def values_of(samples: Iterable[Sample], measure: str) -> dict[Key, float]:
    """Value of each row, the mean of several samples of it; rows without the measure are absent."""
    several: dict[Key, list[float]] = {}
    for sample in samples:
        value = MEASURES[measure].of(sample)
        if value is not None:
            several.setdefault((sample.task, sample.idx), []).append(value)
    return {key: math.fsum(found) / len(found) for key, found in several.items()}


def minus(values: Values, than: Values) -> dict[Key, float]:
    """Difference of each row that both have and that is a finite number."""
    differences = {key: values[key] - than[key] for key in values if key in than}
    return {key: value for key, value in differences.items() if math.isfinite(value)}


def task_means(values: Values) -> dict[str, float]:
    """Mean over the rows of each task, rows that are not finite left out."""
    rows: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        if math.isfinite(value):
            rows.setdefault(task, []).append(value)
    return {task: math.fsum(found) / len(found) for task, found in rows.items()}


def compare_values(
    values: Values, than: Values, measure: str, bootstrap: GroupBootstrap
) -> Comparison:
    """Compare the values of two conditions.

    Raises ConfigError when they have no row in common.
    """
    differences = minus(values, than)
    means = task_means(differences)
    return Comparison(
        measure=measure,
        difference=bootstrap.mean(means),
        tasks=len(means),
        tasks_better=sum(MEASURES[measure].sign * value > EVEN for value in means.values()),
        tasks_equal=sum(abs(value) <= EVEN for value in means.values()),
        rows=len(differences),
        left_out=sum(key in than for key in values) - len(differences),
    )


def interval_dict(interval: Interval) -> dict[str, float | None]:
    """As JSON; a mean that is not finite is null."""
    mean = interval.mean if math.isfinite(interval.mean) else None
    return {"mean": mean, "low": interval.low, "high": interval.high}
