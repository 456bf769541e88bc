"""Where tasks are imported from: table files, data sets, collections, task folders, rows in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.hub import label_names, load_lots_of_loras, load_sni, open_dataset
from text_to_lora.tasks.importing.build import (
    Form,
    Imported,
    Record,
    build_tasks,
    read_records,
    slug,
)
from text_to_lora.tasks.importing.columns import Columns
from text_to_lora.tasks.importing.tables import FORMS, read_table, with_first_exchange
from text_to_lora.tasks.importing.templates import Template
from text_to_lora.tasks.task import MetricKind, Task

_ALPACA: Final = {"instruction", "output"}
_COLLECTION: Final = "Lots-of-LoRAs/"


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    columns: None for the columns `input` and `output`, or those of Alpaca's form where a table has them
    encoding: of CSV and TSV
    config, split, revision: of data sets
    templates: wordings in promptsource's form, instead of columns; each makes a task of its own
    """

    columns: Columns | None = None
    encoding: str = "utf-8"
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    templates: Sequence[Template] = ()


def import_source(
    source: str | Path, reading: Reading, form: Form, *, name: str | None = None
) -> Imported:
    """Import the tasks of one source.

    source: a file in one of the forms of `read_table`, a task folder, a copy of
        Super-NaturalInstructions, a folder or a name of a Hugging Face data set (of which those of
        Lots-of-LoRAs are read as what they are)
    name: of the task, or what the names of several begin with; that of the source by default

    Raises ConfigError and TaskDataError when the source cannot be read or no row can be used.
    """
    path = Path(source)
    tasks = read_collection(source, split=reading.split, revision=reading.revision)
    if tasks is not None:
        if form.descriptions or reading.columns or reading.templates or name:
            raise ConfigError(
                f"{str(source)!r} holds tasks with rows of their own form; leave out names, columns, "
                "templates and descriptions"
            )
        chosen = [
            replace(t, group=form.group or t.group, license=form.license or t.license)
            for t in tasks
        ]
        return Imported(chosen, sum(len(task.examples) for task in tasks))
    form = replace(form, source=form.source or path.name)
    if path.suffix.lower() in FORMS and not path.is_dir():
        name = name or path.stem

        def open_table(check: Callable[..., None]) -> Iterator[Record]:
            return read_table(path, encoding=reading.encoding, check_header=check)

        return _build(name, open_table, reading, form, path)
    is_near = (
        path.is_file() or (path.parent.is_dir() and path.parent != Path()) or "/" not in f"{source}"
    )
    if path.suffix and is_near and not path.is_dir():
        raise ConfigError(
            f"{str(source)!r} has the unknown form {path.suffix!r}; rows are read from {', '.join(FORMS)}"
        )
    dataset = open_dataset(
        source, config=reading.config, split=reading.split, revision=reading.revision
    )
    return import_dataset(dataset, reading, form, name=name or slug(path.name), path=source)


def import_dataset(
    dataset: Any, reading: Reading, form: Form, *, name: str, path: Any = ""
) -> Imported:
    """Import the tasks of a data set that is loaded; numbers become the names of their labels.

    Raises ConfigError and TaskDataError when a column is missing or no row can be used.
    """
    columns = reading.columns or Columns()
    if columns.labels is None and len(columns.outputs) == 1:
        labels = label_names(dataset, columns.outputs[0])
        if labels is not None:
            reading = replace(reading, columns=replace(columns, labels=labels))

    def open_rows(check: Callable[..., None]) -> Iterator[Record]:
        exchange = with_first_exchange(next(iter(dataset), {}))
        check(list(dict.fromkeys([*dataset.column_names, *exchange])), None)
        return enumerate(map(with_first_exchange, dataset), 1)

    return _build(name, open_rows, reading, form, path)


def read_collection(
    source: str | Path, *, split: str = "train", revision: str | None = None
) -> list[Task] | None:
    """Read the tasks of what holds tasks already; give None for a table or another data set.

    source: a task folder, a tree of them with `splits.json`, a copy of Super-NaturalInstructions, or
        the name of a data set of Lots-of-LoRAs
    split, revision: of a tree and of a data set

    Raises ConfigError and TaskDataError when the tasks cannot be read.
    """
    path = Path(source)
    if (path / "tasks.json").is_file():
        return load_folder(path)
    if (path / "splits.json").is_file():
        return load_data_dir(path, split)
    if any(chain(path.glob("task*.json"), path.glob("tasks/task*.json"))):
        return load_sni(path)
    if str(source).startswith(_COLLECTION):
        return [load_lots_of_loras(source, split=split, revision=revision)]
    return None


def make_settings(
    input: str,
    output: str | Sequence[str],
    labels: Mapping[Any, str] | None,
    descriptions: Iterable[str],
    metric: MetricKind | None,
    group: str,
) -> tuple[Columns, Form]:
    """How rows are read and what a task is made of, from the arguments of Task.from_rows."""
    outputs = (output,) if isinstance(output, str) else tuple(output)
    texts = None if labels is None else {str(value): label for value, label in labels.items()}
    return Columns(input, outputs, texts), Form(tuple(descriptions), metric, group, min_rows=1)


def task_from_rows(name: str, rows: Iterable[Any], columns: Columns, form: Form) -> Task:
    """See Task.from_rows."""

    def checked() -> Iterable[Record]:
        for place, row in read_records(rows):
            columns.check_header(list(row), name, place)
            yield place, row

    return _single(build_tasks(name, checked(), columns, form, path=name))


def task_from_dataset(name: str, dataset: Any, columns: Columns, form: Form, split: str) -> Task:
    """See Task.from_dataset."""
    opened = dataset if hasattr(dataset, "column_names") else open_dataset(dataset, split=split)
    return _single(import_dataset(opened, Reading(columns), form, name=name, path=name))


def _single(result: Imported) -> Task:
    if result.left_out:
        warnings.warn("; ".join(result.explain()), T2LWarning, stacklevel=4)
    (task,) = result.tasks
    return task


def _build(
    name: str,
    open_rows: Callable[[Callable[..., None]], Iterator[Record]],
    reading: Reading,
    form: Form,
    path: Any,
) -> Imported:
    if not reading.templates:
        columns = reading.columns or Columns()
        is_alpaca = False

        def check(header: Sequence[str], line: int | None) -> None:
            nonlocal is_alpaca
            is_alpaca |= reading.columns is None and set(header) >= _ALPACA
            if not is_alpaca:
                columns.check_header(header, path, line)

        rows = open_rows(check)
        first = next(rows, None)  # before it nothing is known of the header
        if is_alpaca and not (form.task_column or form.description_column):
            form = replace(form, description_column="instruction")
        records = () if first is None else chain([first], rows)
        return build_tasks(name, records, columns, form, path=path)
    result = Imported()
    for template in reading.templates:
        # whatever the header, since a template may test for a column that is not there
        rows = open_rows(lambda header, line: None)
        wording = replace(
            form,
            descriptions=form.descriptions or (template.description,),
            group=form.group or name,
        )
        result.add(build_tasks(f"{name}-{slug(template.name)}", rows, template, wording, path=path))
    return result
