from pathlib import Path

import numpy
import pytest

from text_to_lora.analysis.ablations import (
    Change,
    difference,
    judge_change,
    mean_of,
    noise_floor,
    plot_changes,
    plot_series,
)
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.stats import GroupBootstrap, Interval

TASKS = [f"task {i}" for i in range(12)]
BOOTSTRAP = GroupBootstrap({task: f"group {i // 2}" for i, task in enumerate(TASKS)}, resamples=500)


def means(shift: float, noise: float = 0.0, seed: int = 0) -> dict[str, float]:
    draw = numpy.random.default_rng(seed).normal(size=len(TASKS))
    return {task: 3 + shift + noise * x for task, x in zip(TASKS, draw, strict=True)}


def test_seeds_are_averaged_on_the_tasks_that_all_have() -> None:
    assert mean_of([{"a": 1.0, "b": 5.0}, {"a": 2.0, "c": 7.0}]) == {"a": 1.5}


def test_the_noise_floor_is_the_largest_difference_between_two_seeds() -> None:
    seeds = [means(0.0), means(0.03), means(-0.02)]
    assert noise_floor(seeds, BOOTSTRAP) == pytest.approx(0.05)
    with pytest.raises(ConfigError, match="1 seeds of the default; a noise floor needs 2"):
        noise_floor(seeds[:1], BOOTSTRAP)


@pytest.mark.parametrize(
    ("cell", "floor", "verdict"),
    [
        (means(-0.2, 0.01), 0.05, "better"),
        (means(0.2, 0.01), 0.05, "worse"),
        (means(-0.04, 0.001), 0.05, "none"),  # clear of zero, within the floor
        (means(-0.04, 0.001), None, "better"),
        (means(-0.1, 2.0, seed=3), 0.01, "none"),  # beyond the floor, not clear of zero
    ],
)
def test_a_change_counts_beyond_the_floor_and_clear_of_zero(
    cell: dict[str, float], floor: float | None, verdict: str
) -> None:
    assert judge_change(cell, means(0.0), floor, BOOTSTRAP).verdict == verdict


def test_differences_are_paired_on_the_tasks_that_both_have() -> None:
    first, second = means(0.5), means(0.0)
    del first[TASKS[0]], second[TASKS[-1]]
    assert difference(first, second, BOOTSTRAP).mean == pytest.approx(0.5)


def test_plots_are_written(tmp_path: Path) -> None:
    change = Change(Interval(-0.1, -0.2, 0.0), "none")
    plot_changes(
        {"a": change, "b": Change(Interval(0.1, None, None), "worse")}, 0.05, tmp_path / "a"
    )
    series = {"matched": [(64.0, Interval(3.0, 2.9, 3.1)), (128.0, Interval(2.9, 2.8, 3.0))]}
    plot_series(series, tmp_path / "b", label="tasks", levels={"base": 3.1})
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in "ab")
