"""Rows of a user's own in four forms, and what is wrong with them in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import ConfigError, T2LWarning, TaskDataError
from text_to_lora.tasks.user_rows import check_rows, read_rows, unnamed_labels

ROWS = (("a, b", "yes"), ("line one\nline two", "no"))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_the_four_forms_give_the_same_rows(tmp_path: Path) -> None:
    quoted = 'input{0}output\n"a, b"{0}yes\n"line one\nline two"{0}no\n'
    files = [
        write(tmp_path, "rows.csv", "\ufeff" + quoted.format(",")),
        write(tmp_path, "rows.TSV", quoted.format("\t")),
        write(
            tmp_path,
            "rows.jsonl",
            "\n".join(json.dumps({"output": answer, "input": text}) for text, answer in ROWS),
        ),
    ]
    texts, answers = zip(*ROWS, strict=True)
    table = pyarrow.table({"output": answers, "input": texts})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for file in [*files, tmp_path / "rows.parquet"]:
        assert read_rows(file) == ROWS, file


def test_columns_are_named_and_whole_numbers_are_labels(tmp_path: Path) -> None:
    file = write(tmp_path, "rows.jsonl", '{"text": "a", "tag": 3, "other": null}\n')
    assert read_rows(file, input_column="text", output_column="tag") == (("a", "3"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r", "x", "has the unknown form ''"),
        ("r.csv", "", "r.csv: no column 'input'; there are none; name yours with --input-column"),
        ("r.csv", "input,output\n", "r.csv: no rows; write a header with 'input' and 'output'"),
        ("r.csv", "text,output\na,b\n", "no column 'input'; there are 'text', 'output'; name"),
        ("r.csv", "input,output,input\n", "column 'input' is there 2 times; rename all but one"),
        ("r.csv", "input,output\na,b\nc, \n", "r.csv:3: column 'output' is empty; write the"),
        ("r.jsonl", '{"input": "a"}\n', "r.jsonl:1: no column 'output'; there are 'input'; name"),
        ("r.jsonl", '{"input": "a", "output": 1.5}', "column 'output' is 1.5; give a text"),
        ("r.jsonl", '{"input": null, "output": "b"}', "column 'input' is None; give a text"),
    ],
)
def test_a_wrong_file_is_one_line(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, TaskDataError)) as caught:
        read_rows(write(tmp_path, name, content))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("none.csv", "none.jsonl", "none.parquet"):
        with pytest.raises(TaskDataError, match=name):
            read_rows(tmp_path / name)


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"input": ["a"]}), tmp_path / "r.parquet")
    with pytest.raises(TaskDataError, match="no column 'output'; there are 'input'; name yours"):
        read_rows(tmp_path / "r.parquet")


def test_no_rows_and_one_row_are_refused() -> None:
    with pytest.raises(ConfigError, match="mails has no rows; give two or more"):
        check_rows([], "x", task="mails")
    with pytest.raises(ConfigError, match=r"mails has 1 row \('a'\); two different ones"):
        check_rows([("a", "b"), (" a", "b ")], "x", task="mails")


def test_rows_that_speak_against_themselves_are_warned_of() -> None:
    with pytest.warns(T2LWarning, match=r"mails repeats rows \(1\); each counts once"):
        assert check_rows([("a", "b"), ("a", "b"), ("c", "d")], "x", task="mails") == (
            ("a", "b"),
            ("c", "d"),
        )
    message = r"inputs with several answers \(1\), such as 'a' with 'b', 'd'; correct the rows"
    with pytest.warns(T2LWarning, match=message):
        check_rows([("a", "b"), ("a", "d")], "x")


def test_labels_that_the_description_does_not_name_are_warned_of() -> None:
    rows = [("a", "ham"), ("b", "spam"), ("c", "ham"), ("d", "Not sure")]
    with pytest.warns(T2LWarning, match=r"leaves out labels of its rows \(1\): 'spam'; name"):
        check_rows([*rows, ("e", "spam"), ("f", "Not sure")], "Say ham, spamming or not sure.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rows(rows[:3], "Say ham or spam.")


def test_texts_are_no_labels() -> None:
    assert unnamed_labels([("a", "b"), ("c", "d")], "x") == []
    assert unnamed_labels([(str(i), "one two three four five") for i in range(4)], "x") == []
    assert unnamed_labels([(str(i), "b") for i in range(4)], "x") == ["b"]
