"""Rows of a user's own: read from a table in any form, and checked before training."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, T2LWarning, TaskDataError, list_some, shorten
from text_to_lora.tasks.importing.tables import check_column, read_table

_LABEL_WORDS: Final = 4  # longer answers are texts, which no description names

Rows = tuple[tuple[str, str], ...]
"""(input, answer) of every row."""


def read_rows(
    path: Path | str,
    *,
    input_column: str = "input",
    output_column: str = "output",
    encoding: str = "utf-8",
) -> Rows:
    """Read the rows of a file, in its order.

    path: a file in one of the forms of `read_table`
    input_column, output_column: names of the two columns that are read
    encoding: of CSV and TSV

    Raises ConfigError when the name tells no form, TaskDataError with file and line when the file
    cannot be read, lacks a column, has no rows, or a cell is no text or an empty answer.
    """
    file = Path(path)
    columns = (input_column, output_column)

    def check(header: Sequence[str], line: int | None) -> None:
        for column in columns:
            check_column(header, column, file, line)

    rows = []
    for line, cells in read_table(file, encoding=encoding, check_header=check):
        text, answer = (_text(cells[column], file, line, column) for column in columns)
        if not answer.strip():
            raise TaskDataError(
                f"column {output_column!r} is empty; write the answer, or leave the row out",
                path=file,
                line=line,
            )
        rows.append((text, answer))
    if not rows:
        raise TaskDataError(
            f"no rows; write a header with {input_column!r} and {output_column!r}, and two rows or more",
            path=file,
        )
    return tuple(rows)


def check_rows(
    rows: Sequence[tuple[str, str]], description: str, *, task: str = "the task"
) -> Rows:
    """Give the distinct rows, and warn of what speaks against rows and description.

    task: its name, for messages

    Raises ConfigError when fewer than two distinct rows are there.
    Warns when a row is there twice, when one input has several answers, and when the answers are
    labels that the description does not name.
    """
    distinct = tuple(dict.fromkeys((text.strip(), answer.strip()) for text, answer in rows))
    if not distinct:
        raise ConfigError(f"{task} has no rows; give two or more, or use `t2l generate`")
    if len(distinct) == 1:
        raise ConfigError(
            f"{task} has 1 row ({shorten(distinct[0][0])}); two different ones are needed, so that "
            "one can be kept out; add a row, or use `t2l generate`"
        )
    if len(distinct) < len(rows):
        _warn(f"{task} repeats rows ({len(rows) - len(distinct)}); each counts once")
    answers_of: dict[str, list[str]] = {}
    for text, answer in distinct:
        answers_of.setdefault(text, []).append(answer)
    contradictions = [text for text, answers in answers_of.items() if len(answers) > 1]
    if contradictions:
        first = contradictions[0]
        _warn(
            f"{task} has inputs with several answers ({len(contradictions)}), such as "
            f"{shorten(first)} with {list_some(map(repr, answers_of[first]))}; correct the rows, or "
            "the adapter learns both"
        )
    unnamed = unnamed_labels(distinct, description)
    if unnamed:
        _warn(
            f"the description of {task} leaves out labels of its rows ({len(unnamed)}): "
            f"{list_some(map(repr, unnamed))}; name every label in the description, from which the "
            "adapter starts"
        )
    return distinct


def unnamed_labels(rows: Sequence[tuple[str, str]], description: str) -> list[str]:
    """Labels among the answers that are no words of the description.

    Answers are taken for labels where each is short and every one occurs twice or more on average.
    """
    counts = Counter(answer for _, answer in rows)
    if 2 * len(counts) > len(rows) or max(len(answer.split()) for answer in counts) > _LABEL_WORDS:
        return []
    text = description.casefold()
    return [
        label
        for label in counts
        if not re.search(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", text)
    ]


def _text(value: Any, file: Path, line: int, column: str) -> str:
    """A cell as text; whole numbers are labels that a program wrote."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TaskDataError(f"column {column!r} is {shorten(value)}; give a text", path=file, line=line)


def _warn(message: str) -> None:
    warnings.warn(message, T2LWarning, stacklevel=3)
