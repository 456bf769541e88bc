"""A task folder is written whole: `tasks.json`, `data.jsonl`, and `index.json`, which says by whom."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from text_to_lora.files import write_folder, write_json, write_text
from text_to_lora.tasks.task import Task

FORMAT: Final = "text-to-lora tasks"
VERSION: Final = 1


def write_tasks(
    tasks: Iterable[Task],
    path: Path | str,
    *,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write tasks as a task folder, which `load_folder` reads.

    overwrite: replace a folder that this function wrote
    notes: what else `index.json` says, as where the tasks come from

    Raises ConfigError when the folder exists and may not be replaced, or cannot be written.
    """
    entries, rows = [], []
    for task in tasks:
        entries.append(_entry(task))
        rows += [
            {"task_id": task.name, "idx": row.idx, "input": row.input, "outputs": row.outputs}
            for row in task.examples
        ]
    with write_folder(path, overwrite=overwrite) as folder:
        write_entries(entries, folder / "tasks.json")
        with (folder / "data.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_json(folder / "index.json", {"format": FORMAT, "version": VERSION, **(notes or {})})
    return Path(path)


def write_entries(entries: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the objects of a `tasks.json`, whole or not at all."""
    write_text(path, json.dumps(list(entries), indent=1, ensure_ascii=False) + "\n")


def _entry(task: Task) -> dict[str, Any]:
    fields = {
        name: getattr(task, name)
        for name in ("license", "source", "group", "category", "split")
        if getattr(task, name)
    }
    metric = {key: value for key, value in asdict(task.metric).items() if value}
    texts = {"definition": task.definition, "descriptions": task.descriptions[1:]}
    return {"id": task.name, **texts, "metric": metric, **fields}
