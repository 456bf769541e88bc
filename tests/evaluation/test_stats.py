"""Intervals against naive loops and closed forms."""

from __future__ import annotations

from itertools import product
from statistics import fmean

import numpy
import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.stats import GroupBootstrap, Interval

GROUPS = {"t1": "a", "t2": "a", "t3": "b", "t4": "c", "t5": "c", "t6": "c"}
VALUES = {"t1": 1.0, "t2": 3.0, "t3": -4.0, "t4": 0.5, "t5": 0.25, "t6": 3.0}


def test_interval_equals_the_exact_distribution_of_a_small_bootstrap() -> None:
    groups = {name: name for name in "abcd"}
    values = dict(zip("abcd", (0.0, 1.0, 5.0, 20.0), strict=True))
    means = sorted(fmean(draw) for draw in product(values.values(), repeat=4))  # all 256 draws
    interval = GroupBootstrap(groups, resamples=40_000).mean(values)
    assert interval.low == means[round(0.025 * 255)]
    assert interval.high == means[round(0.975 * 255)]


def test_ratio_resamples_both_means_together() -> None:
    below = {task: 2.0 + abs(value) for task, value in VALUES.items()}
    above = {task: 0.5 * value for task, value in below.items()}
    interval = GroupBootstrap(GROUPS, resamples=200).ratio(above, below)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_to_a_mean_that_may_be_zero_has_no_interval() -> None:
    interval = GroupBootstrap(GROUPS, resamples=200).ratio(VALUES, VALUES)
    assert interval == Interval(1.0, None, None)
    zeros = dict.fromkeys(VALUES, 0.0)
    assert numpy.isnan(GroupBootstrap(GROUPS, resamples=200).ratio(VALUES, zeros).mean)


def test_one_group_has_no_interval() -> None:
    interval = GroupBootstrap(GROUPS).mean({"t1": 1.0, "t2": 2.0})
    assert interval == Interval(1.5, None, None)
    assert not interval.clear_of_zero


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)],
)
def test_clear_of_zero_needs_both_ends_on_one_side(low: float, high: float, clear: bool) -> None:
    assert Interval(0.0, low, high).clear_of_zero is clear


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no task has a value under both conditions"):
        GroupBootstrap(GROUPS).mean({})
