"""Intervals against naive loops and closed forms."""

from __future__ import annotations

from itertools import product
from statistics import fmean, pstdev

import numpy
import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.stats import GroupBootstrap, Interval

GROUPS = {"t1": "a", "t2": "a", "t3": "b", "t4": "c", "t5": "c", "t6": "c"}
VALUES = {"t1": 1.0, "t2": 3.0, "t3": -4.0, "t4": 0.5, "t5": 0.25, "t6": 3.0}


def naive_draws(values: dict[str, float], resamples: int, seed: int) -> list[float]:
    """Draw groups one by one and average the tasks of each."""
    names = sorted({GROUPS[task] for task in values})
    rng = numpy.random.default_rng(seed)
    draws = []
    for picks in rng.integers(0, len(names), size=(resamples, len(names))).tolist():
        means = []
        for pick in picks:
            members = [value for task, value in values.items() if GROUPS[task] == names[pick]]
            means.append(fmean(members))
        draws.append(fmean(means))
    return draws


def test_mean_counts_every_group_once() -> None:
    interval = GroupBootstrap(GROUPS, resamples=10).mean(VALUES)
    assert interval.mean == pytest.approx((2 - 4 + 1.25) / 3)


def test_interval_equals_a_naive_loop() -> None:
    interval = GroupBootstrap(GROUPS, resamples=300, seed=5).mean(VALUES)
    draws = sorted(naive_draws(VALUES, 300, 5))
    # numpy's percentile: linear between the two nearest of 300 sorted draws
    for end, share in ((interval.low, 0.025), (interval.high, 0.975)):
        place = share * 299
        below = int(place)
        expected = draws[below] + (place - below) * (draws[below + 1] - draws[below])
        assert end == pytest.approx(expected)


def test_interval_equals_the_exact_distribution_of_a_small_bootstrap() -> None:
    groups = {name: name for name in "abcd"}
    values = dict(zip("abcd", (0.0, 1.0, 5.0, 20.0), strict=True))
    means = sorted(fmean(draw) for draw in product(values.values(), repeat=4))  # all 256 draws
    interval = GroupBootstrap(groups, resamples=40_000).mean(values)
    assert interval.low == means[round(0.025 * 255)]
    assert interval.high == means[round(0.975 * 255)]


def test_interval_of_many_groups_is_the_normal_one() -> None:
    rng = numpy.random.default_rng(1)
    values = {f"t{place:03}": float(value) for place, value in enumerate(rng.normal(2, 3, 400))}
    interval = GroupBootstrap({task: task for task in values}).mean(values)
    half = 1.96 * pstdev(values.values()) / 20
    # 10,000 resamples leave about 2% of the half width in each end
    assert interval.low == pytest.approx(interval.mean - half, abs=0.06 * half)
    assert interval.high == pytest.approx(interval.mean + half, abs=0.06 * half)


def test_ratio_resamples_both_means_together() -> None:
    below = {task: 2.0 + abs(value) for task, value in VALUES.items()}
    above = {task: 0.5 * value for task, value in below.items()}
    interval = GroupBootstrap(GROUPS, resamples=200).ratio(above, below)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_equals_the_quotient_of_naive_draws() -> None:
    below = {task: 10.0 + value for task, value in VALUES.items()}
    interval = GroupBootstrap(GROUPS, resamples=200, seed=3).ratio(VALUES, below)
    pairs = zip(naive_draws(VALUES, 200, 3), naive_draws(below, 200, 3), strict=True)
    quotients = [above / under for above, under in pairs]
    assert interval.low == pytest.approx(numpy.percentile(quotients, 2.5))
    assert interval.high == pytest.approx(numpy.percentile(quotients, 97.5))


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


def test_order_of_tasks_does_not_matter() -> None:
    bootstrap = GroupBootstrap(GROUPS, resamples=50)
    assert bootstrap.mean(VALUES) == bootstrap.mean(dict(reversed(VALUES.items())))


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no task has a value under both conditions"):
        GroupBootstrap(GROUPS).mean({})
