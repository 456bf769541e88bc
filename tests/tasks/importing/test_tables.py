"""One reader for every form of table; what is hostile in a file is one line with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.tasks.importing.tables import read_table
from text_to_lora.tasks.user_rows import read_rows


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "input,output\nä,b\n"),
        ("bom.csv", "\ufeffinput,output\nä,b\n"),
        ("windows.csv", "input,output\r\nä,b\r\n"),
        ("mac.csv", "input,output\rä,b\r"),
        ("semicolons.csv", "input;output\nä;b\n"),
        ("quoted.csv", '"input","output"\n"ä","b"\n\n'),
        ("tabs.tsv", "input\toutput\nä\tb\n"),
        ("lines.jsonl", '\ufeff{"input": "ä", "output": "b"}\r\n\r\n'),
        ("list.json", '[{"input": "ä", "output": "b"}]'),
        (
            "talk.jsonl",
            '{"messages": [{"role": "user", "content": "ä"},'
            ' {"role": "assistant", "content": "b"}]}',
        ),
    ],
)
def test_what_can_be_read_is_read(name: str, content: str, tmp_path: Path) -> None:
    file = write(tmp_path, name, content)
    (row,) = read_table(file)
    assert (row[1]["input"], row[1]["output"]) == ("ä", "b")
    assert read_rows(file) == (("ä", "b"),)  # `t2l refine` has the same reader


def test_other_encodings_are_read_when_they_are_named(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        file = write(tmp_path, f"{encoding}.csv", "input,output\nä,b\n".encode(encoding))
        assert [cells for _, cells in read_table(file, encoding=encoding)] == [
            {"input": "ä", "output": "b"}
        ]
        assert read_rows(file, encoding=encoding) == (("ä", "b"),)
        with pytest.raises(TaskDataError, match=r"not UTF-8 .* name its encoding with --encoding"):
            list(read_table(file))
    with pytest.raises(ConfigError, match="in the encoding 'latin-99'"):
        list(read_table(write(tmp_path, "x.csv", "a"), encoding="latin-99"))


def test_a_conversation_of_a_parquet_file_has_the_three_columns(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "more"},
    ]
    table = pyarrow.table({"id": [1], "conversations": [turns]})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    ((_, cells),) = read_table(tmp_path / "c.parquet")
    assert [cells[name] for name in ("instruction", "input", "output")] == ["Be brief.", "q", "a"]
    assert read_rows(tmp_path / "c.parquet") == (("q", "a"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ragged.csv", "a,b\n1,2\n1,2,3\n", "ragged.csv:3: 3 cells, but the header has 2; put"),
        ("short.tsv", "a\tb\n1\n", "short.tsv:2: 1 cells, but the header has 2"),
        (
            "nested.csv",
            'a,b\n"x "y" z",2\n',
            "nested.csv:2: ',' expected after '\"'; write a double",
        ),
        ("open.csv", 'a,b\n"x,2\n', "open.csv:2: unexpected end of data; write a double quote"),
        ("slashed.csv", 'a,b\n"x \\"y\\" z",2\n', "slashed.csv:2: ',' expected after"),
        (
            "latin.csv",
            b"a,b\nx,\xe4\n",
            "latin.csv:2: not UTF-8 (byte 6); save it as UTF-8, or name",
        ),
        ("x.json", '{"a": 1}', "x.json: holds a dict; a list of objects is expected"),
        ("x.json", "[1]", "x.json:1: a row is a int; expected an object"),
        ("x.jsonl", '{"a": 1}\n{"a": ', "x.jsonl:2: not JSON"),
        ("x.jsonl", b'{"a": "\xe4"}', "x.jsonl:1: not UTF-8"),
        ("x.parquet", "x", "x.parquet: not a parquet file that can be read"),
        ("x.xlsx", "", "'.xlsx'; rows are read from .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_the_rest_is_refused_by_place(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, TaskDataError)) as caught:
        list(read_table(write(tmp_path, name, content)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_turn_that_is_no_text_leaves_the_column_empty(tmp_path: Path) -> None:
    line = json.dumps({"conversations": [None, {"from": "human"}]})
    ((_, cells),) = read_table(write(tmp_path, "c.jsonl", line))
    assert [cells[name] for name in ("instruction", "input", "output")] == [None, None, None]
