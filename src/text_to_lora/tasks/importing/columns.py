"""Which columns of a table are the input and the answers of a task, by name or by template."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Final

from text_to_lora.errors import ConfigError, shorten
from text_to_lora.tasks.importing.tables import Cells, check_column
from text_to_lora.tasks.texts import distinct_texts

_MISSING: Final = object()
_NAN: Final = ("NaN", "nan")  # what programs write into a CSV where a number is missing


class LeftOut(Exception):
    """Says why a row is left out, as words that follow "3 rows"."""


@dataclass(frozen=True)
class Columns:
    """How the cells of a row become an input and its answers.

    input: the name of a column, or a template such as "{premise} {hypothesis}"; "a.b" is the field
        b of a column a, and doubled braces stand for themselves
    outputs: the same, one or more; every value of each counts as right, and so does every text of a
        cell that is a list
    labels: the label by the value that stands in the data; rows with other values are left out
    separator: what separates several accepted answers in one cell

    Raises ConfigError when a template has no column or cannot be read.
    """

    input: str = "input"
    outputs: tuple[str, ...] = ("output",)
    labels: Mapping[str, str] | None = None
    separator: str = ""

    def __post_init__(self) -> None:
        for template in (self.input, *self.outputs):
            _split(template)
        if not self.outputs:
            raise ConfigError("no column of answers; name one with --output")

    @property
    def names(self) -> list[str]:
        """The columns that are read, each once."""
        return list(dict.fromkeys(name for t in (self.input, *self.outputs) for name in _names(t)))

    @property
    def label_set(self) -> tuple[str, ...]:
        """The labels, each once; none where answers are what the data has."""
        return () if self.labels is None else tuple(dict.fromkeys(self.labels.values()))

    def check_header(self, header: Sequence[str], path: Any, line: int | None = None) -> None:
        """Check that a header, or the keys of one row, have every column once.

        Raises TaskDataError that names the columns that there are.
        """
        for name in self.names:
            column = name if name in header else name.partition(".")[0]
            check_column(header, column, path, line)

    def read(self, cells: Cells) -> tuple[str, tuple[str, ...]]:
        """Give the input and the accepted answers of a row.

        Raises LeftOut when a cell is empty or NaN, or an answer is none of the labels.
        """
        texts = _fill(self.input, cells)
        answers = [text for column in self.outputs for text in self._answers(column, cells)]
        if not distinct_texts(answers):
            raise LeftOut("with no answer (empty, null or NaN)")
        return " ".join(texts).strip(), distinct_texts(answers)

    def _answers(self, column: str, cells: Cells) -> Iterable[str]:
        for text in _fill(column, cells):
            parts = text.split(self.separator) if self.separator else [text]
            for part in map(str.strip, parts):
                yield self._label(part) if part and self.labels is not None else part

    def _label(self, value: str) -> str:
        assert self.labels is not None
        if (key := value if value in self.labels else value.removesuffix(".0")) in self.labels:
            return self.labels[key]
        if value in self.labels.values():
            return value
        raise LeftOut("with an answer that is none of the labels")


def parse_labels(text: str) -> dict[str, str]:
    """Read "0=no,1=yes", or "no,yes" for the numbers from 0.

    Raises ConfigError when a label is empty or there are fewer than two.
    """
    parts = [part.partition("=") for part in text.split(",")]
    labels = {
        (value.strip() if equals else str(place)): (name if equals else value).strip()
        for place, (value, equals, name) in enumerate(parts)
    }
    if len(labels) < 2 or len(labels) < len(parts) or not all(labels.values()):
        raise ConfigError(
            f"labels {text!r}; write them as 0=no,1=yes or, in their order, as no,yes"
        )
    return labels


def _split(template: str) -> list[tuple[str, str | None]]:
    """The parts of a template: (text, column after it or None)."""
    if "{" not in template and "}" not in template:
        return [("", template)]
    try:
        parts = [(text, name) for text, name, _, _ in Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(
            f"template {template!r}: {error}; write columns as {{name}} and braces doubled"
        ) from None
    if not any(name for _, name in parts):
        raise ConfigError(f"template {template!r} has no column; write one as {{name}}")
    return parts


def _names(template: str) -> list[str]:
    return [name for _, name in _split(template) if name is not None]


def _fill(template: str, cells: Cells) -> list[str]:
    """The texts of a column, several where its cell is a list; of a template, one."""
    if "{" not in template and "}" not in template:
        return _texts(_cell(template, cells))
    parts = _split(template)
    values = ["" if name is None else " ".join(_texts(_cell(name, cells))) for _, name in parts]
    pairs = zip(parts, values, strict=True)
    return ["".join(text + value for (text, _), value in pairs)] if any(values) else []


def _cell(name: str, cells: Cells) -> Any:
    if name in cells:
        return cells[name]
    value: Any = cells
    for part in name.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    return None if value is _MISSING else value


def _texts(value: Any) -> list[str]:
    """The texts of a cell as a person would write them; none where it is empty, null or NaN."""
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, str):
        return [value] if value.strip() and value.strip() not in _NAN else []
    if isinstance(value, float) and value.is_integer():
        return [str(int(value))]  # a column of whole numbers with gaps, as pandas writes it
    if isinstance(value, bool | int | float):
        return [json.dumps(value)]
    raise LeftOut(f"with a cell that is no text but {shorten(type(value).__name__)}")
