"""Scores of one answer against rules written out by hand."""

from __future__ import annotations

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.metrics import final_number, in_labels, score_answer
from text_to_lora.tasks.task import Metric

EXACT = Metric("exact_match")
ROUGE = Metric("rougeL")
NUMBER = Metric("final_number")


def test_any_accepted_output_is_right() -> None:
    assert score_answer(EXACT, "two", ("one", "Two")) == 1
    assert score_answer(EXACT, "three", ("one", "Two")) == 0
    assert score_answer(Metric("classification", ("x", "y")), "Y.", ("y",)) == 1


def lcs(first: list[str], second: list[str]) -> int:
    """Longest common subsequence by plain recursion."""
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + lcs(first[1:], second[1:])
    return max(lcs(first[1:], second), lcs(first, second[1:]))


@pytest.mark.parametrize(
    ("answer", "output"),
    [("a b c d", "a c d e f"), ("x", "y z"), ("a b a b", "b a b a b"), ("", "a")],
)
def test_rouge_l_equals_a_naive_longest_common_subsequence(answer: str, output: str) -> None:
    common = lcs(answer.split(), output.split())
    expected = 2 * common / (len(answer.split()) + len(output.split()))
    assert score_answer(ROUGE, answer, ("q", output)) == pytest.approx(expected)


def test_rouge_l_stems_words() -> None:
    assert score_answer(ROUGE, "dogs running", ("dog runs",)) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 and then 1,200", 1200),
        ("#### 7 not 8", 7),
        ("9 is wrong\n#### -5", -5),
        ("2.50", 2.5),
        ("none", None),
    ],
)
def test_final_number_is_the_last_one_or_the_one_after_the_mark(
    text: str, number: float | None
) -> None:
    assert final_number(text) == number


def test_numbers_are_compared_by_value() -> None:
    assert score_answer(NUMBER, "that makes 1,200.0", ("6 * 200 = 1200\n#### 1200",)) == 1
    assert score_answer(NUMBER, "that makes many", ("#### 1200",)) == 0


def test_only_label_sets_have_a_share_inside() -> None:
    labels = Metric("classification", ("Yes", "No"))
    assert in_labels(labels, "yes.") is True
    assert in_labels(labels, "yes no") is False
    assert in_labels(EXACT, "yes") is None


def test_code_execution_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'code_execution' runs code"):
        score_answer(Metric("code_execution"), "pass", ("pass",))
