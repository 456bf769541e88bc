"""Scores of one generated answer, by the metric of its task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from text_to_lora.errors import ConfigError, needs_extra
from text_to_lora.tasks.task import Metric
from text_to_lora.tasks.texts import normalize_answer

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def score_answer(metric: Metric, answer: str, outputs: Sequence[str]) -> float:
    """Score an answer against every accepted output, from 0 to 1; the best output counts.

    classification and exact_match: equal after `normalize_answer`; rougeL: F-measure with stemming;
    final_number: equal value of the last number (of the output: after "####" where it has that).

    Raises ConfigError for code_execution, which runs code and is not scored here.
    """
    if metric.kind == "code_execution":
        raise ConfigError("metric 'code_execution' runs code; it is not scored here, leave it out")
    if metric.kind == "rougeL":
        return max(rouge_l(answer, output) for output in outputs)
    if metric.kind == "final_number":
        number = final_number(answer)
        return float(number is not None and number in map(final_number, outputs))
    return float(normalize_answer(answer) in map(normalize_answer, outputs))


def in_labels(metric: Metric, answer: str) -> bool | None:
    """Tell whether an answer is one of the labels; None for a metric without labels."""
    if metric.kind != "classification":
        return None
    return normalize_answer(answer) in map(normalize_answer, metric.labels)


def rouge_l(answer: str, output: str) -> float:
    """ROUGE-L F-measure with Porter stemming, by the rouge-score package."""
    return float(_scorer().score(output, answer)["rougeL"].fmeasure)


def final_number(text: str) -> float | None:
    """Give the last number of a text, or the first after "####"; commas are read as thousands.

    None where there is none.
    """
    before, mark, after = text.partition("####")
    numbers = _NUMBER.findall(after if mark else before)
    if not numbers:
        return None
    return float(numbers[0 if mark else -1].replace(",", ""))


@cache
def _scorer() -> RougeScorer:
    with needs_extra("eval", "ROUGE-L"):
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer(["rougeL"], use_stemmer=True)
