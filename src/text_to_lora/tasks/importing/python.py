"""Tasks of rows that are in memory: what `Task.from_rows` and `Task.from_dataset` do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from text_to_lora.errors import T2LWarning
from text_to_lora.tasks.datasets import open_dataset
from text_to_lora.tasks.importing.build import Form, Imported, build_tasks, read_records
from text_to_lora.tasks.importing.columns import Columns
from text_to_lora.tasks.importing.sources import Reading, import_dataset
from text_to_lora.tasks.task import Task


def task_from_rows(
    name: str,
    rows: Iterable[Any],
    input: str,
    outputs: tuple[str, ...],
    labels: Mapping[Any, str] | None,
    form: Mapping[str, Any],
) -> Task:
    """See Task.from_rows; form: fields of Form."""
    columns = _columns(input, outputs, labels)

    def checked() -> Iterable[tuple[int, Mapping[str, Any]]]:
        for place, row in read_records(rows):
            columns.check_header(list(row), name, place)
            yield place, row

    return _single(build_tasks(name, checked(), columns, Form(min_rows=1, **form), path=name))


def task_from_dataset(
    name: str,
    dataset: Any,
    input: str,
    outputs: tuple[str, ...],
    labels: Mapping[Any, str] | None,
    form: Mapping[str, Any],
    split: str,
) -> Task:
    """See Task.from_dataset; form: fields of Form."""
    opened = dataset if hasattr(dataset, "column_names") else open_dataset(dataset, split=split)
    reading = Reading(_columns(input, outputs, labels))
    return _single(import_dataset(opened, reading, Form(min_rows=1, **form), name=name, path=name))


def _columns(input: str, outputs: tuple[str, ...], labels: Mapping[Any, str] | None) -> Columns:
    texts = None if labels is None else {str(value): label for value, label in labels.items()}
    return Columns(input, outputs, texts)


def _single(result: Imported) -> Task:
    if result.left_out:
        warnings.warn("; ".join(result.explain()), T2LWarning, stacklevel=4)
    (task,) = result.tasks
    return task
