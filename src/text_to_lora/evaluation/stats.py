"""Means over tasks and their intervals, by resampling the groups that tasks come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy
from numpy.typing import NDArray

from text_to_lora.errors import ConfigError

Floats = NDArray[numpy.float64]

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95% interval; the ends are None where there is no interval."""

    mean: float
    low: float | None
    high: float | None

    @property
    def clear_of_zero(self) -> bool:
        """Whether both ends have the same sign."""
        return self.low is not None and self.high is not None and self.low * self.high > 0

    def to_dict(self) -> dict[str, float | None]:
        """The fields as JSON values; a mean that is not finite is null."""
        return asdict(self) | {"mean": self.mean if math.isfinite(self.mean) else None}


class GroupBootstrap:
    """Resamples groups of tasks with replacement; gives percentile intervals.

    Tasks are averaged inside their group and every group counts once, in the means too: tasks of
    one data set are one piece of evidence, however many of them there are. Equal group names and
    an equal seed give equal resamples.

    groups: group of each task
    """

    def __init__(
        self, groups: Mapping[str, str], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        self._groups = groups
        self._resamples = resamples
        self._seed = seed

    def mean(self, values: Mapping[str, float]) -> Interval:
        """Mean over groups of a value per task.

        Raises ConfigError when there is no task.
        """
        points = self.group_means(values)
        return Interval(float(points.mean()), *self._ends(numpy.mean, points))

    def ratio(self, above: Mapping[str, float], below: Mapping[str, float]) -> Interval:
        """Ratio of two means over the same tasks, resampled together.

        There is no interval where the lower mean is not clear of zero, since the ratio then has no
        meaning.
        """
        tops, bottoms = self.group_means(above), self.group_means(below)
        mean = float(tops.mean() / bottoms.mean()) if bottoms.mean() else math.nan
        if not self.mean(below).clear_of_zero:
            return Interval(mean, None, None)
        return Interval(mean, *self._ends(_ratio, tops, bottoms))

    def group_means(self, values: Mapping[str, float]) -> Floats:
        """Mean of the tasks of each group, in the order of group names, [groups].

        Raises ConfigError when there is no task.
        """
        if not len(values):
            raise ConfigError("no task has a value under both conditions; nothing to average")
        members: dict[str, list[float]] = {}
        for task, value in sorted(values.items()):
            members.setdefault(self._groups[task], []).append(value)
        return numpy.array([numpy.mean(members[group]) for group in sorted(members)])

    def _ends(
        self, statistic: Callable[..., Floats], *samples: Floats
    ) -> tuple[float | None, float | None]:
        if len(samples[0]) < 2:
            return None, None
        from scipy.stats import bootstrap  # of the extra eval, which not every user of means has

        interval = bootstrap(
            samples,
            statistic,
            n_resamples=self._resamples,
            confidence_level=LEVEL,
            method="percentile",
            paired=True,
            vectorized=True,
            rng=numpy.random.default_rng(self._seed),
        ).confidence_interval
        if not (numpy.isfinite(interval.low) and numpy.isfinite(interval.high)):
            return None, None
        return float(interval.low), float(interval.high)


def _ratio(tops: Floats, bottoms: Floats, axis: int) -> Floats:
    with numpy.errstate(divide="ignore", invalid="ignore"):
        ratios: Floats = tops.mean(axis=axis) / bottoms.mean(axis=axis)
    return ratios
