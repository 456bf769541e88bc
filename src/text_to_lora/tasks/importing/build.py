"""Rows become tasks: rows that cannot be used are left out and counted, the others numbered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.tasks.hub import guess_metric
from text_to_lora.tasks.importing.columns import Columns, LeftOut
from text_to_lora.tasks.importing.tables import Cells
from text_to_lora.tasks.importing.templates import Template
from text_to_lora.tasks.task import Example, Metric, MetricKind, Task

Record = tuple[int, Cells]
REST_DEFINITION: Final = "Follow the instruction that the text begins with."


Reader = Columns | Template
"""Makes an input and its answers of a row."""


@dataclass(frozen=True)
class Form:
    """What a task is made of, besides its rows and its name.

    descriptions: the wordings; a plain one is made of columns and labels where there are none
    metric: kind of metric; None for "classification" where labels are named, else a guess from the
        answers
    task_column, description_column: columns that tell the rows of one task from those of another,
        by its name or by its wording
    min_rows: tasks with fewer rows are left out; max_rows: of a task, in rows
    """

    descriptions: tuple[str, ...] = ()
    metric: MetricKind | None = None
    group: str = ""
    license: str = ""
    source: str = ""
    task_column: str | None = None
    description_column: str | None = None
    min_rows: int = 10
    max_rows: int = 10_000


@dataclass
class Imported:
    """Tasks, and how many rows were read and left out.

    left_out: (reason, number of rows, first place) by reason
    """

    tasks: list[Task] = field(default_factory=list)
    rows: int = 0
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)

    def leave_out(self, reason: str, place: str, count: int = 1) -> None:
        """Count rows that are left out; place: of the first, such as mails.csv:7."""
        known, first = self.left_out.get(reason, (0, place))
        self.left_out[reason] = (known + count, first)

    def add(self, other: Imported) -> None:
        """Take over the tasks and the counts of another import.

        Raises ConfigError when both have a task of one name.
        """
        names = {task.name for task in self.tasks}
        for task in other.tasks:
            if task.name in names:
                raise ConfigError(f"two tasks are named {task.name!r}; name one with --name")
        self.tasks += other.tasks
        self.rows += other.rows
        for reason, (count, place) in other.left_out.items():
            self.leave_out(reason, place, count)

    def explain(self) -> list[str]:
        """One line for each reason."""
        return [
            f"left out: {count:,} row{'s' * (count > 1)} {reason}, first {place}"
            for reason, (count, place) in self.left_out.items()
        ]


@dataclass
class _Rows:
    """The rows of one task while they are gathered, with the place of the first."""

    place: str
    descriptions: dict[str, None] = field(default_factory=dict)
    examples: dict[tuple[str, tuple[str, ...]], None] = field(default_factory=dict)


def build_tasks(
    name: str, records: Iterable[Record], reader: Reader, form: Form, *, path: Any = ""
) -> Imported:
    """Make the tasks of a table: one, or one for each value of the columns that part them.

    records: (line or row from 1, cells); path: of the table, for messages

    Where a column of descriptions alone parts them, as in Alpaca's form, rows without an input and
    those of tasks with few rows become one more task, whose inputs begin with the description.

    Raises ConfigError and TaskDataError when no row is left, or a field cannot work.
    """
    result = Imported()
    gathered = _gather(name, records, reader, form, path, result)
    rest = name if form.description_column and not form.task_column else None
    if rest in gathered:
        _part_small(gathered, rest, form, result)
    for key, rows in gathered.items():
        if len(rows.examples) < form.min_rows:
            reason = f"of a task with fewer than {form.min_rows} rows"
            result.leave_out(reason, rows.place, len(rows.examples))
            continue
        if len(rows.examples) > form.max_rows:
            reason = f"beyond the first {form.max_rows:,} of their task"
            result.leave_out(reason, rows.place, len(rows.examples) - form.max_rows)
        result.tasks.append(_make_task(key, rows, form, name, reader))
    if not result.tasks:
        reasons = "; ".join(result.explain()) or "it has no rows"
        raise TaskDataError(f"no row can be used: {reasons}", path=path)
    return result


def _gather(
    name: str, records: Iterable[Record], reader: Reader, form: Form, path: Any, result: Imported
) -> dict[str, _Rows]:
    gathered: dict[str, _Rows] = {}
    for line, cells in records:
        result.rows += 1
        place = f"{path}:{line}"
        try:
            text, answers = reader.read(cells)
            description = _cell(cells, form.description_column)
            key = _key(name, cells, form, description)
            if not text and not (description and form.task_column is None):
                raise LeftOut("with no input (empty, null or NaN)")
        except LeftOut as reason:
            result.leave_out(str(reason), place)
            continue
        if not text:
            key, text, description = name, description, ""
        rows = gathered.setdefault(key, _Rows(place))
        if description:
            rows.descriptions[description] = None
        if (text, answers) in rows.examples:
            result.leave_out("equal to an earlier row of the task", place)
        rows.examples[text, answers] = None
    if form.description_column and not form.task_column:
        gathered.setdefault(name, _Rows(f"{path}"))
    return gathered


def _part_small(gathered: dict[str, _Rows], rest: str, form: Form, result: Imported) -> None:
    """Move the rows of small tasks to the rest, their description before the input."""
    for key in [key for key in gathered if key != rest]:
        if len(gathered[key].examples) < form.min_rows:
            small = gathered.pop(key)
            (description,) = small.descriptions
            for text, answers in small.examples:
                gathered[rest].examples[f"{description}\n\n{text}", answers] = None
    if not form.descriptions:
        gathered[rest].descriptions[REST_DEFINITION] = None
    if not gathered[rest].examples:
        del gathered[rest]


def _cell(cells: Cells, column: str | None) -> str:
    value = None if column is None else cells.get(column)
    return value.strip() if isinstance(value, str) else ""


def _key(name: str, cells: Cells, form: Form, description: str) -> str:
    """The name of the task that a row is of."""
    if form.task_column is not None:
        value = str(cells.get(form.task_column) or "").strip()
        if not value:
            raise LeftOut(f"with no task in {form.task_column!r}")
        return value
    return f"{name}-{slug(description)}" if description else name


def _make_task(key: str, rows: _Rows, form: Form, name: str, reader: Reader) -> Task:
    chosen = list(rows.examples)[: form.max_rows]
    examples = tuple(Example(text, answers, i) for i, (text, answers) in enumerate(chosen))
    if reader.label_set and form.metric in (None, "classification"):
        metric = Metric("classification", reader.label_set)
    elif form.metric is None:
        metric = guess_metric(examples)
    elif form.metric == "classification":
        metric = Metric("classification", tuple(sorted({e.outputs[0] for e in examples})))
    else:
        metric = Metric(form.metric)
    descriptions = (*rows.descriptions, *form.descriptions)
    return Task(
        key,
        "",
        descriptions or (plain_definition(reader, metric),),
        examples,
        metric,
        group=form.group or name,
        license=form.license,
        source=form.source,
    )


def plain_definition(reader: Reader, metric: Metric) -> str:
    """A wording of columns and labels alone, for a task that nobody has described."""
    given, wanted = "the text", "the answer"
    if isinstance(reader, Columns):
        names = [name.replace("_", " ") for name in reader.names]
        count = len(reader.outputs) if all("{" not in out for out in reader.outputs) else 1
        given, wanted = " and ".join(names[:-count] or names), names[-1]
    answers = f" Answer with one of: {', '.join(metric.labels)}." if metric.labels else ""
    return f"Read the {given.removeprefix('the ')} and give the {wanted.removeprefix('the ')}.{answers}"


def read_records(rows: Iterable[Any]) -> Iterator[Record]:
    """Number rows from 1; a pair becomes the columns `input` and `output`.

    Raises ConfigError for a row that is neither a mapping nor a pair.
    """
    for place, row in enumerate(rows, 1):
        if isinstance(row, Mapping):
            yield place, row
        elif isinstance(row, tuple | list) and len(row) == 2:
            yield place, {"input": row[0], "output": row[1]}
        else:
            raise ConfigError(f"row {place} is {row!r}; give a mapping, or a pair (input, answer)")


def slug(text: str, length: int = 48) -> str:
    """A text as a name: its words in lower case, with hyphens."""
    words = "-".join(re.findall(r"[^\W_]+", text.casefold()))
    return words[:length].rstrip("-") or "task"
