"""Columns by name and by template, labels, several answers, cells that hold nothing."""

from __future__ import annotations

from typing import Any

import pytest

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.tasks.importing.columns import Columns, LeftOut, parse_labels

NLI = Columns("{premise} => {hypothesis}", ("label",), parse_labels("yes,perhaps,no"))


def test_a_template_is_filled_and_a_number_becomes_its_label() -> None:
    row = {"premise": "It {rains}.", "hypothesis": "Wet", "label": 2}
    assert NLI.read(row) == ("It {rains}. => Wet", ("no",))
    assert NLI.read({**row, "label": "1.0"})[1] == ("perhaps",)  # as pandas writes it with gaps
    assert NLI.read({**row, "label": "yes"})[1] == ("yes",)
    assert NLI.names == ["premise", "hypothesis", "label"]
    assert NLI.label_set == ("yes", "perhaps", "no")


@pytest.mark.parametrize(
    ("columns", "row", "answers"),
    [
        (Columns(outputs=("output",), separator="|"), {"output": "a | b|"}, ("a", "b")),
        (Columns(outputs=("x", "y")), {"x": "a", "y": 2}, ("a", "2")),
        (Columns(outputs=("output",)), {"output": ["a", "b", "a", None]}, ("a", "b")),
        (Columns(outputs=("answers.text",)), {"answers": {"text": ["a", "b"]}}, ("a", "b")),
        (Columns(outputs=("{x}/{y}",)), {"x": 1.0, "y": True}, ("1/true",)),
    ],
)
def test_every_text_of_an_answer_counts(
    columns: Columns, row: dict[str, Any], answers: tuple[str, ...]
) -> None:
    assert columns.read({"input": "i", **row}) == ("i", answers)


@pytest.mark.parametrize("nothing", [None, "", "  ", float("nan"), "NaN", "nan", [], [None]])
def test_a_cell_without_a_text_is_no_answer_and_no_input(nothing: Any) -> None:
    with pytest.raises(LeftOut, match=r"with no answer \(empty, null or NaN\)"):
        Columns().read({"input": "a", "output": nothing})
    assert Columns().read({"input": nothing, "output": "b"})[0] == ""


def test_other_cells_and_other_labels_are_left_out() -> None:
    with pytest.raises(LeftOut, match="with a cell that is no text but 'dict'"):
        Columns().read({"input": {"a": 1}, "output": "b"})
    with pytest.raises(LeftOut, match="none of the labels"):
        NLI.read({"premise": "a", "hypothesis": "b", "label": -1})


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{{a}}"])
def test_a_template_without_columns_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="template"):
        Columns(template)


def test_columns_that_are_missing_or_there_twice_are_named() -> None:
    with pytest.raises(TaskDataError, match=r"t.csv: no column 'label'; there are 'premise', 'hyp"):
        NLI.check_header(["premise", "hypothesis"], "t.csv")
    with pytest.raises(TaskDataError, match="column 'input' is there 2 times"):
        Columns().check_header(["input", "output", "input"], "t.csv")


@pytest.mark.parametrize("text", ["one", "a,,b", "0=a,0=b", ""])
def test_labels_that_are_no_set_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write them as 0=no,1=yes"):
        parse_labels(text)
