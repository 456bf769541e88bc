from __future__ import annotations

import pytest

from text_to_lora import errors
from text_to_lora.errors import (
    BackendError,
    ConfigError,
    T2LError,
    TaskDataError,
    list_some,
    shorten,
)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {
        line.split("── ")[1].split("(")[0]: line.split("(")[1].split(")")[0]
        for line in (errors.__doc__ or "").splitlines()
        if "── " in line
    }
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, T2LError) and value is not T2LError
    }
    assert drawn.keys() == classes.keys()
    for name, base in drawn.items():
        assert [parent.__name__ for parent in classes[name].__bases__] == ["T2LError", base]


def test_a_task_error_names_file_and_line() -> None:
    assert str(TaskDataError("no outputs", path="a.jsonl", line=7)) == "a.jsonl:7: no outputs"
    assert str(TaskDataError("empty", path="a.jsonl")) == "a.jsonl: empty"


def test_a_backend_error_carries_the_output() -> None:
    error = BackendError("the server left with code 3", output="out of memory")
    assert (str(error), error.output) == ("the server left with code 3", "out of memory")


def test_four_names_are_spelled_out_and_the_others_counted() -> None:
    assert list_some(iter("abcd")) == "a, b, c, d"
    assert list_some("abcdefg") == "a, b, c, d and 3 more"


def test_a_name_from_outside_stays_on_one_line_of_bounded_length() -> None:
    assert list_some(["a\nb", "c"]) == r"'a\nb', c"
    assert shorten("x" * 1000) == "'" + "x" * 199 + "... (1002 characters)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eright to left", r"\u202eright to left"),
        ("half \ud83c", r"half \ud83c"),
        ("whole 😀 é 日本", "whole 😀 é 日本"),
        ("it's", "it's"),
    ],
)
def test_messages_are_one_line_that_prints(text: str, message: str) -> None:
    assert str(ConfigError(text)) == message


def test_a_very_long_message_keeps_its_start_and_its_end() -> None:
    message = str(ConfigError("start " + "a" * 1_000_000 + " next step"))
    assert len(message) < 2100
    assert message.startswith("start aaa")
    assert "(1000016 characters)" in message
    assert message.endswith("a next step")
