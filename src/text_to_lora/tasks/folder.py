"""Our own task folder: `tasks.json` says what the tasks are, `data.parquet` or `data.jsonl` holds rows.

`tasks.json` is a list with one object a task: `id`, `metric` {"kind", "labels"}, and `definition`,
`descriptions` [text, ...] or both; optional: `license`, `source`, `group`, `category`, `split`.
A row is `task_id`, `input`, `outputs` [text, ...] (each counts as right) and, optional, `idx`
(default: the row's place in its task).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, T2LWarning, TaskDataError, list_some, shorten
from text_to_lora.files import read_task_json
from text_to_lora.tasks.importing.tables import Cells, check_column, read_table
from text_to_lora.tasks.task import METRIC_KINDS, Example, Metric, Task

_FILES = ("data.parquet", "data.jsonl")


def load_folder(path: Path | str, names: Iterable[str] | None = None) -> list[Task]:
    """Read the tasks of one folder, in the order of `tasks.json`.

    names: the tasks to read, all by default

    Raises TaskDataError with file and line when something in the folder is wrong, ConfigError when
    the folder or a named task does not exist.
    """
    folder = Path(path)
    entries = _read_entries(folder)
    chosen = list(entries if names is None else dict.fromkeys(names))
    for name in chosen:
        if name not in entries:
            raise ConfigError(
                f"{str(folder)!r} has no task {name!r}; it has {len(entries)}, first {next(iter(entries))!r}"
            )
    return _read_tasks(folder, entries, chosen, split=None)


def load_data_dir(path: Path | str, split: str = "train") -> list[Task]:
    """Read one split of a tree of folders that has a `splits.json` {split: [task id, ...]}.

    Raises ConfigError when the tree or the split does not exist, TaskDataError with file and line
    when a file is wrong, or when a task of the split is in no folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigError(f"data folder {str(root)!r} does not exist; check the path")
    splits_file = root / "splits.json"
    splits = read_task_json(splits_file)
    if not isinstance(splits, dict):
        raise TaskDataError("expected an object {split: [task id, ...]}", path=splits_file)
    if split not in splits:
        raise ConfigError(
            f"{str(root)!r} has no split {split!r}; choose one of {', '.join(splits)}"
        )
    names = splits[split]
    if not is_list_of_texts(names):
        raise TaskDataError(f"split {split!r} is not a list of task ids", path=splits_file)
    missing = dict.fromkeys(names)
    tasks: list[Task] = []
    for file in sorted(root.glob("*/tasks.json")):
        entries = _read_entries(file.parent)
        chosen = [name for name in entries if name in missing]
        for name in chosen:
            del missing[name]
        if chosen:
            tasks += _read_tasks(file.parent, entries, chosen, split=split)
    if missing:
        raise TaskDataError(
            f"split {split!r} names {len(missing)} tasks that no folder has, first "
            f"{next(iter(missing))!r}; add them or take them out of the split",
            path=splits_file,
        )
    return tasks


def load_folder_or_tree(path: Path | str, split: str = "train") -> list[Task]:
    """Read all tasks of one folder, or one split of a tree of folders; raises what either raises."""
    folder = Path(path)
    is_tree = (folder / "splits.json").is_file() or not (folder / "tasks.json").is_file()
    return load_data_dir(folder, split) if is_tree else load_folder(folder)


def _read_tasks(
    folder: Path, entries: Mapping[str, tuple[int, Any]], chosen: Sequence[str], split: str | None
) -> list[Task]:
    file, rows = _open_rows(folder)
    examples = _collect(file, rows, entries)
    tasks = []
    for name in chosen:
        line, entry = entries[name]
        if not examples[name]:
            raise TaskDataError(f"task {name!r} has no rows; add some", path=file)
        with _errors_at(folder / "tasks.json", line):
            tasks.append(_build_task(entry, examples[name], split))
    _warn_of_other_labels(folder, tasks)
    return tasks


def _warn_of_other_labels(folder: Path, tasks: Iterable[Task]) -> None:
    """Warn (T2LWarning), once a folder, of rows whose outputs are none of their task's labels."""
    shares = []
    for task in tasks:
        if task.metric.kind == "classification":
            num_wrong = sum(not task.metric.has_label(row.outputs) for row in task.examples)
            shares += [f"{num_wrong} of {len(task.examples)} of {task.name!r}"] if num_wrong else []
    if shares:
        warnings.warn(
            f"{str(folder)!r} has rows whose outputs are none of their task's labels, so that no "
            f"label is right: {list_some(shares)}; mend the rows or add the labels",
            T2LWarning,
            stacklevel=4,
        )


def _read_entries(folder: Path) -> dict[str, tuple[int, Any]]:
    """Give {task id: (line in tasks.json, its object)}."""
    if not folder.is_dir():
        raise ConfigError(f"task folder {str(folder)!r} does not exist; check the path")
    path = folder / "tasks.json"
    entries: dict[str, tuple[int, Any]] = {}
    for line, entry in _list_items(path):
        with _errors_at(path, line):
            if not isinstance(entry, dict):
                raise ConfigError(f"a task is a {type(entry).__name__}; expected an object")
            name = entry.get("id")
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"a task has id {shorten(name)}; give it a non-empty text")
            if name in entries:
                raise ConfigError(
                    f"task id {name!r} is taken by line {entries[name][0]}; choose another"
                )
        entries[name] = (line, entry)
    if not entries:
        raise TaskDataError("the list of tasks is empty; add one", path=path)
    return entries


def _build_task(entry: Mapping[str, Any], examples: Sequence[Example], split: str | None) -> Task:
    """Make a task of its object in tasks.json; raises ConfigError without the place."""
    name = entry["id"]

    def text(field: str, default: str = "") -> str:
        value = entry.get(field, default)
        if not isinstance(value, str):
            raise ConfigError(f"task {name!r} has {field} {shorten(value)}; give a text")
        return value

    def texts(holder: Mapping[str, Any], field: str) -> tuple[str, ...]:
        value = holder.get(field, [])
        if not is_list_of_texts(value):
            raise ConfigError(f"task {name!r} has {field} {shorten(value)}; give a list of texts")
        return tuple(value)

    metric = entry.get("metric")
    if not isinstance(metric, dict) or "kind" not in metric:
        kinds = ", ".join(METRIC_KINDS)
        raise ConfigError(
            f'task {name!r} has metric {shorten(metric)}; give {{"kind": one of {kinds}}}'
        )
    if isinstance(source := entry.get("source"), dict):
        entry = {**entry, "source": " ".join(map(str, source.values()))}
    labels = texts(metric, "labels")
    try:
        metric = Metric(metric["kind"], labels)
    except ConfigError as error:
        raise ConfigError(f"task {name!r}: {error}") from error
    return Task(
        name=name,
        definition=text("definition"),
        descriptions=texts(entry, "descriptions"),
        examples=tuple(examples),
        metric=metric,
        license=text("license"),
        source=text("source"),
        group=text("group", name),
        category=text("category"),
        split=split or text("split", "train"),
    )


def _collect(
    file: Path, rows: Iterable[tuple[int, Cells]], entries: Mapping[str, Any]
) -> dict[str, list[Example]]:
    """Check every row and give the examples of each task."""
    examples: dict[str, list[Example]] = {name: [] for name in entries}
    places: dict[str, set[int]] = {name: set() for name in entries}
    for line, cells in rows:
        name, text, outputs = cells["task_id"], cells["input"], cells["outputs"]
        with _errors_at(file, line):
            if not isinstance(name, str) or name not in entries:
                raise ConfigError(
                    f"row of task {shorten(name)}, which tasks.json does not have; add the task or fix the id"
                )
            idx = cells.get("idx")
            idx = len(examples[name]) if idx is None else idx
            if type(idx) is not int or idx < 0:
                raise ConfigError(f"idx {shorten(idx)}; give a whole number from 0")
            if idx in places[name]:
                raise ConfigError(
                    f"idx {idx} of task {name!r} occurs twice; number the rows of a task apart"
                )
            places[name].add(idx)
            if not isinstance(text, str):
                raise ConfigError(f"input {shorten(text)}; give a text")
            if not is_list_of_texts(outputs):
                raise ConfigError(f'outputs {shorten(outputs)}; give a list of texts, like ["yes"]')
            examples[name].append(Example(text, tuple(outputs), idx))
    return examples


def _open_rows(folder: Path) -> tuple[Path, Iterator[tuple[int, Cells]]]:
    """The file of the rows, and its lines or rows from 1."""
    files = [file for name in _FILES if (file := folder / name).exists()]
    if len(files) != 1:
        state = "both data.parquet and data.jsonl exist; keep one"
        state = state if files else "neither data.parquet nor data.jsonl exists; add one"
        raise TaskDataError(state, path=folder)
    (file,) = files

    def check(header: Sequence[str], line: int | None) -> None:
        for column in ("task_id", "input", "outputs"):
            check_column(header, column, file, line, "a row has task_id, input and outputs")

    return file, read_table(file, check_header=check)


def _list_items(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield every item of a JSON list with the line where it starts."""
    items = read_task_json(path)
    if not isinstance(items, list):
        raise TaskDataError(
            f"holds a {type(items).__name__}; a list of tasks is expected", path=path
        )
    text = path.read_text(encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    position, line, counted = text.index("[") + 1, 1, 0
    for item in items:
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        yield line, item
        _, position = decoder.raw_decode(text, position)


def is_list_of_texts(value: Any) -> bool:
    """Whether a JSON value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@contextmanager
def _errors_at(path: Path, line: int) -> Iterator[None]:
    """Give a ConfigError of the block its file and line."""
    try:
        yield
    except ConfigError as error:
        raise TaskDataError(str(error), path=path, line=line) from error
