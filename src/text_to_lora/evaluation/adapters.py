"""Scores of given adapters on rows of their own tasks, and how close they come to the oracles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.scoring import Row, Scorer
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Task

Measure = Literal["nll", "score"]
MEASURES: tuple[Measure, ...] = ("nll", "score")


@dataclass(frozen=True)
class TaskScores:
    """What one condition makes of rows of several tasks.

    nll: nats a token of the first accepted answer, end token included, per task and row
    score: of the greedy answer by the task's metric, from 0 to 1, per task and row
    """

    nll: Mapping[str, tuple[float, ...]]
    score: Mapping[str, tuple[float, ...]]

    def means(self, measure: Measure) -> dict[str, float]:
        """Mean over the rows of each task; rows without a finite value are left out."""
        means = {}
        for task, values in getattr(self, measure).items():
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                means[task] = math.fsum(finite) / len(finite)
        return means

    @property
    def rows_not_finite(self) -> int:
        """Rows whose likelihood is not a finite number."""
        return sum(not math.isfinite(value) for values in self.nll.values() for value in values)

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Means and number of rows of each task as JSON; null where no row is finite."""
        nll, score = self.means("nll"), self.means("score")
        return {
            task: {"rows": len(rows), "nll": nll.get(task), "score": score.get(task)}
            for task, rows in self.nll.items()
        }

    @classmethod
    def from_dict(cls, payload: Mapping[str, Mapping[str, float | int | None]]) -> TaskScores:
        """Read what `to_dict` gave: the mean stands for a task's rows."""

        def values(measure: Measure) -> dict[str, tuple[float, ...]]:
            found = {task: means[measure] for task, means in payload.items()}
            return {task: (math.nan if v is None else v,) for task, v in found.items()}

        return cls(values("nll"), values("score"))


def score_adapters(
    scorer: Scorer,
    rows: Sequence[Row],
    weights: LoraWeights | None = None,
    *,
    tasks: Sequence[str] | None = None,
) -> TaskScores:
    """Score rows with given adapters, no description in the prompt.

    weights: None for the base alone; one adapter for all rows; or one for each of `tasks`
    tasks: names of the tasks of the adapters, in their order; None where there is one for all

    Raises ConfigError when the scorer generates nothing, when there are not as many adapters as
    tasks, or a row's task has none; what Scorer.score raises.
    """
    adapters = None if weights is None else _adapters(rows, weights, tasks)
    answers = scorer.score(rows, weights=weights, adapters=adapters)
    nll: dict[str, list[float]] = {}
    score: dict[str, list[float]] = {}
    for row, answer in zip(rows, answers, strict=True):
        if answer.score is None:
            raise ConfigError("the scorer generates no answers; set max_new_tokens to 1 or more")
        nll.setdefault(row.task.name, []).append(answer.nll)
        score.setdefault(row.task.name, []).append(answer.score)
    return TaskScores(
        {task: tuple(values) for task, values in nll.items()},
        {task: tuple(values) for task, values in score.items()},
    )


class AdapterReport:
    """Intervals of conditions over the same rows, by resampling source groups.

    tasks: the tasks that were scored
    """

    def __init__(self, tasks: Sequence[Task], *, seed: int = 0) -> None:
        groups = {task.name: group_of(task) for task in tasks}
        self._bootstrap = GroupBootstrap(groups, seed=seed)

    def summary(self, scores: TaskScores) -> dict[str, Any]:
        """Mean and interval of both measures, and rows that have no finite likelihood."""
        return {
            "rows_not_finite": scores.rows_not_finite,
            **{m: as_json(self._bootstrap.mean(scores.means(m))) for m in MEASURES},
        }

    def difference(self, scores: TaskScores, than: TaskScores) -> dict[str, Any]:
        """Paired difference of each measure, and in how many tasks the first is better or equal."""
        report: dict[str, Any] = {}
        for measure in MEASURES:
            differences = _differences(scores, than, measure)
            sign = -1 if measure == "nll" else 1
            report[measure] = {
                **as_json(self._bootstrap.mean(differences)),
                "tasks": len(differences),
                "tasks_better": sum(sign * value > 0 for value in differences.values()),
                "tasks_equal": sum(value == 0 for value in differences.values()),
            }
        return report

    def recovery(
        self, scores: TaskScores, *, base: TaskScores, oracle: TaskScores
    ) -> dict[str, Any]:
        """How much of what the oracles give is there: ratios of means over tasks.

        relative_score: score over that of the oracles, as in the paper's Figure 3
        gap_closed: share of the way from the base's nll to that of the oracles

        No ends where the divisor is not clear of zero.
        Source: Text-to-LoRA (arXiv 2506.06105), Figure 3; the gap is ours.
        """
        nlls = [of.means("nll") for of in (base, scores, oracle)]
        before, here, best = _common(*nlls)
        top, bottom = _common(scores.means("score"), oracle.means("score"))
        return {
            "relative_score": as_json(self._bootstrap.ratio(top, bottom)),
            "gap_closed": as_json(
                self._bootstrap.ratio(
                    {task: before[task] - here[task] for task in here},
                    {task: before[task] - best[task] for task in here},
                )
            ),
        }


def row_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean of one task's rows that are finite, with an interval by resampling the rows.

    Raises ConfigError when there is none.
    """
    finite = {str(i): value for i, value in enumerate(values) if math.isfinite(value)}
    return GroupBootstrap({name: name for name in finite}, seed=seed).mean(finite)


def as_json(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON values; a mean that is not finite is null."""
    mean = interval.mean if math.isfinite(interval.mean) else None
    return {"mean": mean, "low": interval.low, "high": interval.high}


def _adapters(
    rows: Sequence[Row], weights: LoraWeights, tasks: Sequence[str] | None
) -> list[int] | None:
    """The adapter of each row."""
    if tasks is None and weights.num_adapters == 1:
        return None
    if tasks is None or len(tasks) != weights.num_adapters:
        count = "no" if tasks is None else len(tasks)
        raise ConfigError(
            f"{weights.num_adapters} adapters for {count} task names; give one name for each"
        )
    places = {task: place for place, task in enumerate(tasks)}
    for row in rows:
        if row.task.name not in places:
            raise ConfigError(f"task {row.task.name!r} has no adapter; leave its rows out")
    return [places[row.task.name] for row in rows]


def _differences(scores: TaskScores, than: TaskScores, measure: Measure) -> dict[str, float]:
    values, others = _common(scores.means(measure), than.means(measure))
    return {task: values[task] - others[task] for task in values}


def _common(*means: Mapping[str, float]) -> list[dict[str, float]]:
    """The same values of the tasks that all have."""
    tasks = [task for task in means[0] if all(task in others for others in means)]
    return [{task: values[task] for task in tasks} for values in means]
