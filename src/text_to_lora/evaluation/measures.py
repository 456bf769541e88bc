"""Measure: what a report averages, read off a sample without a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from text_to_lora.evaluation.samples import Sample
from text_to_lora.tasks.task import MetricKind
from text_to_lora.tasks.texts import normalize_answer


@dataclass(frozen=True)
class Measure:
    """One figure of a sample.

    title: in tables and plots
    of: the figure; None for samples that it does not cover
    covers: those that it covers, in words
    lower_is_better: a likelihood's, and no other's
    """

    title: str
    of: Callable[[Sample], float | None]
    covers: str
    lower_is_better: bool = False

    @property
    def sign(self) -> int:
        """Factor that turns a difference into "more is better"."""
        return -1 if self.lower_is_better else 1


def _score_of(kind: MetricKind) -> Callable[[Sample], float | None]:
    return lambda sample: sample.score if sample.metric == kind else None


def _nll(sample: Sample) -> float | None:
    if sample.nll is None or math.isfinite(sample.nll):
        return sample.nll
    return math.inf  # also for NaN, which in a table means that there is no value


def _exact_match(sample: Sample) -> float | None:
    if sample.score is None or sample.metric == "rule":  # no answer, or none that is the right one
        return None
    return float(normalize_answer(sample.answer) in map(normalize_answer, sample.outputs))


def _in_labels(sample: Sample) -> float | None:
    return None if sample.in_labels is None else float(sample.in_labels)


MEASURES: dict[str, Measure] = {
    "nll": Measure(
        "NLL",
        _nll,
        "every row with a likelihood: nats per token of the first accepted answer, its end token "
        "included",
        lower_is_better=True,
    ),
    "score": Measure("score", lambda s: s.score, "every answer, by the metric of its task"),
    "label_score": Measure(
        "label by likelihood",
        lambda sample: sample.label_score,
        "tasks with labels: whether the likeliest label is right; a label has the sum over its "
        "tokens",
    ),
    "label_generated": Measure(
        "label by generation",
        _score_of("classification"),
        "tasks with labels: whether the answer is the right label",
    ),
    "in_labels": Measure(
        "in label set", _in_labels, "tasks with labels: whether the answer is any of them"
    ),
    "exact_match": Measure(
        "exact match", _exact_match, "every answer, whatever the metric of its task"
    ),
    "rouge_l": Measure(
        "ROUGE-L",
        _score_of("rougeL"),
        "tasks of this metric alone: answers of tasks with labels and of exact match are cut once "
        "they cannot be right any more, so that their overlap says little",
    ),
    "final_number": Measure(
        "final number", _score_of("final_number"), "tasks of this metric: the last number"
    ),
}
"""By the name that reports use, in the order of their tables."""

HEADLINE = ("nll", "score")
"""What plots, shares of gaps and tables per task show."""
