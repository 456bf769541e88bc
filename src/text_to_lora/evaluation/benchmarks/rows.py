"""Local rows in the hub's columns, for machines without a network and for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.evaluation.benchmarks.catalogue import BenchmarkTask
from text_to_lora.files import file_hash

Rows = dict[str, list[dict[str, Any]]]
"""Rows of each split."""

SPLITS: Final = ("train", "validation", "test", "prompt")
SUFFIXES: Final = (".json", ".jsonl", ".parquet")


def row_files(folder: Path, task: BenchmarkTask) -> dict[str, Path]:
    """Files of a task by split: TASK.SPLIT.json (a list), .jsonl or .parquet.

    Raises ConfigError when the split that is scored is missing.
    """
    found = {
        split: path
        for split in SPLITS
        for suffix in reversed(SUFFIXES)
        if (path := folder / f"{task.name}.{split}{suffix}").is_file()
    }
    if task.split not in found:
        name = f"{task.name}.{task.split}"
        raise ConfigError(
            f"{str(folder)!r} has no rows of {task.name!r}; put {name}.json, {name}.jsonl or "
            f"{name}.parquet there, with the hub's columns: {', '.join(task.columns)}"
        )
    return found


def read_rows(folder: Path, task: BenchmarkTask) -> Rows:
    """Read the rows of every split that a folder has.

    Raises ConfigError when the split that is scored is missing, TaskDataError when a file is wrong
    or a row lacks a column.
    """
    rows = {split: _read(path) for split, path in row_files(folder, task).items()}
    for split, several in rows.items():
        path = row_files(folder, task)[split]
        if not several:
            raise TaskDataError("holds no rows", path=path)
        for number, row in enumerate(several, 1):
            missing = [
                name for name in task.columns if not isinstance(row, dict) or name not in row
            ]
            if missing:
                raise TaskDataError(
                    f"the row lacks {', '.join(missing)}; {task.name!r} reads the hub's columns "
                    f"{', '.join(task.columns)}",
                    path=path,
                    line=number,
                )
    return rows


def row_hashes(folder: Path, task: BenchmarkTask) -> dict[str, str]:
    """SHA-256 of the file of each split."""
    return {split: file_hash(path) for split, path in row_files(folder, task).items()}


def _read(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_table(path).to_pylist())
        except (pyarrow.ArrowException, OSError) as error:
            raise TaskDataError(f"is not parquet that can be read: {error}", path=path) from error
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        rows = json.loads(text)
    except ValueError as error:  # not UTF-8, or not JSON
        raise TaskDataError(f"is not JSON that can be read: {error}", path=path) from error
    if not isinstance(rows, list):
        raise TaskDataError(f"holds a {type(rows).__name__}; a list of rows is expected", path=path)
    return rows
