"""Scores of given adapters: each row by its task's own, and what is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.adapters import (
    AdapterReport,
    TaskScores,
    row_interval,
    score_adapters,
)
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.lora import LoraWeights
from text_to_lora.tasks.task import Task

Adapters = Callable[..., LoraWeights]


@pytest.fixture
def rows(tasks: list[Task]) -> list[Row]:
    return choose_rows(tasks[:3], rows_per_task=2, seed=0, examples=Task.validation)


def _scores(**nll: tuple[float, ...]) -> TaskScores:
    """Score of a row: 1 - nll."""
    return TaskScores(nll, {task: tuple(1 - v for v in values) for task, values in nll.items()})


def test_every_row_is_scored_with_the_adapter_of_its_task(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    adapters: Adapters,
    rows: list[Row],
) -> None:
    scorer = Scorer(base, tokenizer, max_new_tokens=4)
    weights = adapters(base, 3)
    names = ["task2", "task0", "task1"]  # not in the order of the rows
    together = score_adapters(scorer, rows, weights, tasks=names)
    for adapter, name in zip(weights.unbind(), names, strict=True):
        own = [row for row in rows if row.task.name == name]
        alone = scorer.score(own, weights=adapter)
        assert together.nll[name] == pytest.approx([answer.nll for answer in alone], rel=1e-5)
        assert together.score[name] == tuple(answer.score for answer in alone)
    plain = score_adapters(scorer, rows)
    assert plain.nll["task0"] == pytest.approx([a.nll for a in scorer.score(rows)[:2]], rel=1e-5)
    shared = score_adapters(scorer, rows, weights.unbind()[1])
    assert shared.nll["task0"] == pytest.approx(together.nll["task0"], rel=1e-5)
    assert shared.nll["task1"] != pytest.approx(together.nll["task1"], rel=1e-3)


def test_adapters_that_do_not_fit_the_rows_are_refused(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    adapters: Adapters,
    rows: list[Row],
) -> None:
    scorer = Scorer(base, tokenizer, max_new_tokens=4)
    weights = adapters(base, 2)
    with pytest.raises(ConfigError, match="2 adapters for no task names"):
        score_adapters(scorer, rows, weights)
    with pytest.raises(ConfigError, match="2 adapters for 3 task names"):
        score_adapters(scorer, rows, weights, tasks=["task0", "task1", "task2"])
    with pytest.raises(ConfigError, match="'task2' has no adapter"):
        score_adapters(scorer, rows, weights, tasks=["task0", "task1"])
    with pytest.raises(ConfigError, match="max_new_tokens"):
        score_adapters(Scorer(base, tokenizer, max_new_tokens=0), rows)


def test_scores_survive_json_and_leave_out_what_is_not_finite() -> None:
    scores = _scores(a=(1.0, math.inf, 2.0), b=(math.nan,), c=(0.5,))
    assert scores.means("nll") == {"a": 1.5, "c": 0.5}
    assert scores.rows_not_finite == 2
    stored = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert stored["a"]["rows"] == 3 and stored["b"]["nll"] is None
    assert TaskScores.from_dict(stored).means("nll") == scores.means("nll")


def test_recovery_is_a_ratio_of_means_over_groups(tasks: list[Task]) -> None:
    """task2 and task3 are of groups of their own; task0 and task1 share one, which counts once."""
    report = AdapterReport(tasks[:4])
    base = _scores(task0=(0.8,), task1=(0.8,), task2=(0.6, 0.8), task3=(0.9,))
    oracle = _scores(task0=(0.2,), task1=(0.2,), task2=(0.3, 0.3), task3=(0.3,))
    half = _scores(task0=(0.5,), task1=(0.5,), task2=(0.5, 0.5), task3=(0.6,))
    groups = {tasks[i].name: tasks[i].group for i in range(4)}
    assert groups["task0"] == groups["task1"]
    recovery = report.recovery(half, base=base, oracle=oracle)
    assert recovery["gap_closed"]["mean"] == pytest.approx((0.3 + 0.2 + 0.3) / (0.6 + 0.4 + 0.6))
    assert recovery["relative_score"]["mean"] == pytest.approx((0.5 + 0.5 + 0.4) / (0.8 + 1.4))
    assert recovery["gap_closed"]["low"] < 0.5 < recovery["gap_closed"]["high"] + 1e-9
    none = report.recovery(base, base=base, oracle=base)["gap_closed"]
    assert none == {"mean": None, "low": None, "high": None}


def test_a_difference_counts_tasks_that_are_better(tasks: list[Task]) -> None:
    report = AdapterReport(tasks[:4])
    base = _scores(task0=(0.8,), task2=(0.6,), task3=(0.9,))
    other = _scores(task0=(0.5,), task2=(0.7,), task3=(0.9,))
    difference = report.difference(other, base)
    assert difference["nll"]["mean"] == pytest.approx(-0.2 / 3)
    assert difference["score"]["mean"] == pytest.approx(0.2 / 3)
    for measure in ("nll", "score"):
        counts = [difference[measure][key] for key in ("tasks", "tasks_better", "tasks_equal")]
        assert counts == [3, 1, 1]
    summary = report.summary(base)
    assert summary["rows_not_finite"] == 0
    assert summary["nll"]["mean"] == pytest.approx(2.3 / 3)


def test_a_row_interval_holds_the_mean_and_shrinks_with_rows() -> None:
    few, many = (row_interval([0.0, 1.0] * count) for count in (5, 100))
    for interval in (few, many):
        assert interval.low is not None and interval.high is not None
        assert interval.low < interval.mean == 0.5 < interval.high
    assert many.high - many.low < 0.5 * (few.high - few.low)  # type: ignore[operator]
    assert row_interval([0.25, math.nan]).low is None
