"""Means over tasks and their intervals, by resampling the groups that tasks come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from text_to_lora.errors import ConfigError

Floats = NDArray[numpy.float64]

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95% interval; ends are None where one cannot be given."""

    mean: float
    low: float | None
    high: float | None

    @property
    def clear_of_zero(self) -> bool:
        """Whether both ends have the same sign."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


class GroupBootstrap:
    """Resamples groups of tasks with replacement; percentile intervals.

    Tasks are averaged inside their group and every group counts once, in the means too: tasks of
    one data set are one piece of evidence, however many of them there are. Equal group names and
    seed give equal resamples, so that intervals are reproducible.

    groups: group of each task
    """

    def __init__(
        self, groups: Mapping[str, str], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        self._groups = groups
        self._resamples = resamples
        self._seed = seed
        self._draws: dict[int, NDArray[numpy.int64]] = {}  # by number of groups

    def mean(self, values: Mapping[str, float]) -> Interval:
        """Mean over groups of a value per task.

        Raises ConfigError when there is no task.
        """
        points = self.group_means(values)
        draws = points[self._draw(len(points))].mean(axis=1)
        return Interval(float(points.mean()), *self._ends(draws, len(points)))

    def ratio(self, above: Mapping[str, float], below: Mapping[str, float]) -> Interval:
        """Ratio of two means over the same tasks, resampled together.

        No ends where the lower mean is not clear of zero: the ratio then has no meaning.
        """
        tops, bottoms = self.group_means(above), self.group_means(below)
        draw = self._draw(len(tops))
        means = bottoms[draw].mean(axis=1)
        mean = float(tops.mean() / bottoms.mean()) if bottoms.mean() else float("nan")
        low, high = self._ends(means, len(bottoms))
        if low is None or high is None or low * high <= 0 or not means.all():
            return Interval(mean, None, None)
        return Interval(mean, *self._ends(tops[draw].mean(axis=1) / means, len(tops)))

    def group_means(self, values: Mapping[str, float]) -> Floats:
        """Mean of the tasks of each group, in the order of group names, [groups].

        Raises ConfigError when there is no task.
        """
        if not values:
            raise ConfigError("no task has a value under both conditions; nothing to average")
        members: dict[str, list[float]] = {}
        for task in sorted(values):
            members.setdefault(self._groups[task], []).append(values[task])
        return numpy.array([numpy.mean(members[group]) for group in sorted(members)])

    def _draw(self, groups: int) -> NDArray[numpy.int64]:
        if groups not in self._draws:
            rng = numpy.random.default_rng(self._seed)
            self._draws[groups] = rng.integers(0, groups, size=(self._resamples, groups))
        return self._draws[groups]

    def _ends(self, draws: Floats, groups: int) -> tuple[float | None, float | None]:
        if groups < 2:
            return None, None
        tail = 50 * (1 - LEVEL)
        low, high = numpy.percentile(draws, [tail, 100 - tail])
        return float(low), float(high)
