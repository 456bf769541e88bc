"""Readers of answers: what each reads, where the reference's differ, and the difference reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from text_to_lora.evaluation.readers import (
    BENCHMARKS,
    compare_readers,
    kind_of,
    over_rows,
    read_boolean,
    read_choice,
    read_code,
    read_number,
    read_samples_twice,
    reference_boolean,
    reference_choice,
    reference_code,
    reference_number,
)
from text_to_lora.evaluation.samples import Sample

LETTERS = "Which gas warms the stratosphere?\n\nA: nitrogen\nB: water vapor\nC: ozone\nD: carbon"
HUMAN_EVAL = (
    '```python\nimport math\n\ndef half(x):\n    """Half of x, rounded up."""\n\n```'  # as stored
)


@pytest.mark.parametrize(
    ("answer", "choice", "reference"),
    [
        ("B", "B", "b"),
        ("b)", "B", "b"),
        ("(B)", "B", "b"),
        ("B: water vapor", "B", "b"),
        ("Answer: B", "B", "a"),
        ("The answer is B because A is wrong.", "B", "t"),
        ("**Answer:** (C)", "C", None),
        ("I think C is right.", "C", "i"),
        ("It must be A", "A", "i"),
        ("ozone", "C", "o"),
        ("Water vapor.", "B", "w"),
        ("A dog ate it", None, "a"),
        ("Because the answer is a gas", None, "b"),
        ("B or C", None, "b"),
        ("none of them", None, "n"),
        ("", None, None),
        ("**B**", "B", None),
    ],
)
def test_choices_are_read_and_the_reference_takes_the_first_character(
    answer: str, choice: str | None, reference: str | None
) -> None:
    assert read_choice(answer, "ABCD", LETTERS) == choice
    assert reference_choice(answer) == reference


@pytest.mark.parametrize(
    ("answer", "options", "question", "choice"),
    [
        ("1", ("0", "1"), "", "1"),
        ("Option 2", ("1", "2"), "", "2"),
        ("I would take 10", ("0", "1"), "", None),
        ("The second: 1.5 of them", ("0", "1"), "", None),
        ("(e)", ("(A)", "(B)"), "Options:\n(A) one\n(B) two\n(E) five", "E"),
        ("five", ("(A)", "(B)"), "Options:\n(A) one\n(B) two\n(E) five", "E"),
        ("Jessica", ("1", "2"), "_ likes rings.\n\nOption 1: Jessica\nOption 2: Christine", "1"),
        ("red and blue", "AB", "A: red\nB: red and blue", "B"),
    ],
)
def test_options_are_digits_brackets_or_those_that_the_question_lists(
    answer: str, options: tuple[str, ...], question: str, choice: str | None
) -> None:
    assert read_choice(answer, options, question) == choice


@pytest.mark.parametrize(
    ("answer", "value", "reference"),
    [
        ("true", True, True),
        ("Yes.", True, True),
        ("No, it is not.", False, False),
        ("I know it is true", True, False),  # "no" in "know"
        ("There is no doubt: true", True, False),
        ("not true", False, False),  # "no" in "not"
        ("That isn't true", False, True),
        ("The answer is false. Not true 1 bit.", False, True),
        ("invalid", None, True),  # "valid" in "invalid"
        ("true or false", None, True),
        ("True, and no more", True, False),
        ("perhaps", None, None),
    ],
)
def test_truth_values_are_read_and_the_reference_looks_inside_words(
    answer: str, value: bool | None, reference: bool | None
) -> None:
    assert read_boolean(answer) is value
    assert reference_boolean(answer) is reference


@pytest.mark.parametrize(
    ("answer", "number", "reference"),
    [
        ("42", 42, 42),
        ("1,234.", 1234, 234),
        ("-5", -5, 5),
        ("a loss of -$1,200.50 in all", -1200.5, 200.5),
        ("The answer is 42 dollars and 3 cents", 42, 3),
        ("**Answer:** 12 (of 30)", 12, 30),
        ("10 - 5 = 5", 5, 5),
        ("10-5", 5, 5),
        ("5 apples\n#### 18\nthat is 2 dozens", 18, 2),
        (r"so \boxed{7} of 9", 7, 9),
        ("about .5", 0.5, 0.5),
        ("1, 2, 3", 3, 3),
        ("the temperature is −3", -3, 3),
        ("Answer: none, but 6 + 2 is 8", 8, 8),
        ("many", None, None),
    ],
)
def test_numbers_are_read_and_the_reference_drops_signs_and_thousands(
    answer: str, number: float | None, reference: float | None
) -> None:
    assert read_number(answer) == number
    assert reference_number(answer) == reference


def test_code_is_the_fenced_block_that_defines_the_function() -> None:
    answer = "Use this:\n```python\nx = 1\n```\nand\n```py\ndef f():\n    return 2\n```\nDone."
    assert read_code(answer, "Write f.") == "def f():\n    return 2"
    assert read_code("def f():\n    return 2\n\nThis returns 2, you see.", "Write f.").rstrip() == (
        "def f():\n    return 2"
    )
    assert read_code("Sure!\nimport os\nx = 1", "Write f.") == "import os\nx = 1"
    assert read_code("def f():\n    return 2\n```\nIt is done.", "Write f.") == (
        "def f():\n    return 2"
    )
    assert read_code("```python\ndef f(): return 1", "Write f.") == "def f(): return 1"
    assert read_code("not python at all", "Write f.") == "not python at all"


@pytest.mark.parametrize(
    "answer",
    [
        "return math.ceil(x / 2)",
        "    return math.ceil(x / 2)",
        "y = x / 2\n    return math.ceil(y)",  # stored answers lose the first line's indent
        "def half(x):\n    return math.ceil(x / 2)",
        "Here:\n```python\ndef half(x):\n    return math.ceil(x / 2)\n```\nIt rounds up.",
        "return math.ceil(x / 2)\n```\nThat is all.",
        "return math.ceil(x / 2)\n\nThis rounds up.",
    ],
)
def test_code_goes_on_where_the_question_ends_or_replaces_it(answer: str) -> None:
    names: dict[str, Any] = {}
    exec(read_code(answer, HUMAN_EVAL, "half"), names)
    assert names["half"](5) == 3


def test_the_reference_cuts_code_at_the_first_fence() -> None:
    assert reference_code("def f(): return 1\n```\nDone.", "Write f.") == "def f(): return 1\n"
    assert reference_code("```python\ndef f(): return 1\n```", "Write f.") == ""
    goes_on = reference_code("return 1\n```", HUMAN_EVAL, "half")
    assert goes_on.startswith("import math")
    assert goes_on.endswith("    return 1\n")


def test_every_benchmark_has_a_kind_and_labels_decide_elsewhere() -> None:
    assert {name: kind for name, (kind, _) in BENCHMARKS.items()} == {
        "arc_challenge": "choice",
        "arc_easy": "choice",
        "boolq": "boolean",
        "gsm8k": "number",
        "hellaswag": "choice",
        "humaneval": "code",
        "mbpp": "code",
        "openbookqa": "choice",
        "piqa": "choice",
        "social_i_qa": "choice",
        "winogrande": "choice",
    }
    for name, (kind, options) in BENCHMARKS.items():
        metric = {"number": "final_number", "code": "code_execution"}.get(kind, "classification")
        assert kind_of(f"mine.{name}", metric, tuple(options)) == kind
    assert kind_of("a", "classification", ("(A)", "(B)")) == "choice"
    assert kind_of("a", "classification", ("No", "Yes")) == "boolean"
    assert kind_of("a", "classification", ("valid", "invalid")) is None
    assert kind_of("a", "final_number", ()) == "number"
    assert kind_of("a", "code_execution", ()) == "code"
    assert kind_of("a", "rougeL", ()) is None
    assert kind_of("boolq", "rougeL", ()) is None


def _sample(task: str, idx: int, answer: str, output: str, metric: str, score: float) -> Sample:
    fields: Mapping[str, Any] = dict.fromkeys(Sample.__dataclass_fields__, "")
    return Sample(
        **{
            **fields,
            "condition": "base",
            "task": task,
            "group": task,
            "idx": idx,
            "metric": metric,
            "input": LETTERS if metric == "classification" else "How many?",
            "reference": output,
            "outputs": (output,),
            "answer": answer,
            "nll": 1.0,
            "tokens": 1,
            "score": score,
            "in_labels": None,
            "label_score": None,
            "cut": False,
        }
    )


SAMPLES = [
    _sample("choice", 5, "B", "B", "classification", 1.0),
    _sample("choice", 6, "Answer: B", "B", "classification", 0.0),
    _sample("choice", 7, "Answer: A", "A", "classification", 0.0),
    _sample("choice", 8, "?", "A", "classification", 0.0),
    _sample("number", 5, "It is 1,200", "#### 1,200", "final_number", 1.0),
    _sample("number", 6, "-5", "#### 5", "final_number", 0.0),
    _sample("text", 5, "a", "b", "rougeL", 0.5),
    _sample("code", 5, "x", "y", "code_execution", 1.0),
]
LABELS = {"choice": ("A", "B", "C", "D")}


def test_both_readers_score_the_same_stored_answers() -> None:
    readings = read_samples_twice(SAMPLES, LABELS)
    scored = [(r.sample.task, r.sample.idx, r.correct, r.reference, r.unread) for r in readings]
    assert scored == [
        ("choice", 5, 1.0, 1.0, False),
        ("choice", 6, 1.0, 0.0, False),
        ("choice", 7, 1.0, 1.0, False),  # right by accident: "Answer" begins with an a
        ("choice", 8, 0.0, 0.0, True),
        ("number", 5, 1.0, 1.0, False),  # both sides lose the thousands
        ("number", 6, 0.0, 1.0, False),  # the sign is lost
    ]


def test_code_is_compared_where_the_reference_is_graded() -> None:
    (reading,) = read_samples_twice(SAMPLES[-1:], {}, lambda sample: 0.0)
    assert (reading.kind, reading.correct, reading.reference) == ("code", 1.0, 0.0)


def test_samples_without_a_generated_answer_are_left_out() -> None:
    sample = SAMPLES[0]
    blank = [_sample("choice", 1, "", "B", "classification", 0.0)]
    assert len(read_samples_twice(blank, LABELS)) == 1
    fields = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
    assert read_samples_twice([Sample(**{**fields, "score": None})], LABELS) == []


def test_the_difference_of_readers_is_paired_and_has_an_interval() -> None:
    compared = compare_readers(read_samples_twice(SAMPLES, LABELS))
    choice, number = compared["tasks"]["choice"], compared["tasks"]["number"]
    assert (choice["rows"], choice["unread"]) == (4, 0.25)
    assert (choice["metric"], choice["correct"], choice["reference"]) == (0.25, 0.75, 0.5)
    assert choice["difference"]["mean"] == 0.25
    assert choice["difference"]["low"] <= 0.25 <= choice["difference"]["high"]
    assert number["difference"]["mean"] == -0.5
    assert compared["overall"]["difference"]["mean"] == pytest.approx((0.25 - 0.5) / 2)
    assert compared["overall"]["correct"]["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert compare_readers([]) == {"tasks": {}, "overall": {}}


def test_an_interval_over_rows_is_about_that_of_the_normal_distribution() -> None:
    values = [float(place % 4 == 0) for place in range(400)]
    found = over_rows(values)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert found.mean == 0.25
    assert found.low == pytest.approx(0.25 - half, abs=0.006)
    assert found.high == pytest.approx(0.25 + half, abs=0.006)
