"""Library -> one PEFT folder a task, under names that every file system takes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import AdapterFormatError, ConfigError
from text_to_lora.files import check_format, check_output, lock, read_json, write_json
from text_to_lora.library.library import AdapterLibrary, hash_adapter
from text_to_lora.lora.peft_format import PROVENANCE_FILE, load_adapter, save_adapter

FORMAT: Final = "text-to-lora export"
VERSION: Final = 1
MAPPING_FILE: Final = "index.json"

LOCK_SECONDS: Final = 60.0  # of waiting for another export to add itself to index.json
_MAX_NAME: Final = 100  # characters of a folder's name; file systems allow 255 bytes
_RESERVED: Final = frozenset(  # device names of Windows, and the mapping's own
    {"con", "prn", "aux", "nul", "index.json"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)}
)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    folders: task -> name of its folder, of every task that was asked for
    unchanged: tasks whose folders an earlier run had finished
    """

    folders: dict[str, str]
    unchanged: tuple[str, ...]


def export_library(
    library: AdapterLibrary,
    path: Path | str,
    *,
    tasks: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda words: None,
) -> ExportReport:
    """Write one PEFT folder a task below `path`, and index.json that says which is whose.

    Every folder is whole or absent, in the scale-safe form, with a provenance.json that holds the
    library's entry and fingerprint. One that an earlier run finished for the same adapter is kept,
    so that an interrupted export goes on.
    tasks: those to write; None for all
    overwrite: replace folders that hold something else

    Raises ConfigError, before anything is written, for an unknown task, when a folder holds
    something else without `overwrite`, or when it may not be replaced (`check_output`).
    """
    root = Path(path)
    names = folder_names(library.names)
    wanted = library.names if tasks is None else tasks
    folders = {library.entry(task).task: names[task] for task in wanted}
    _read_mapping(root)
    fingerprint = library.fingerprint
    provenances = {task: _make_provenance(library, task, fingerprint) for task in folders}
    same = {task for task, name in folders.items() if _is_of(root / name, provenances[task])}
    for task, name in folders.items():
        if (root / name).exists() and not (task in same or overwrite):
            raise ConfigError(
                f"{str(root / name)!r} is not this library's adapter of {task!r}; "
                "pass --overwrite or choose another folder"
            )
        check_output(root / name, overwrite=True)
    unchanged = []
    for number, (task, name) in enumerate(folders.items(), 1):
        progress(f"writing {number} of {len(folders)}: {task}")
        if task in same and _is_whole(root / name, library):
            unchanged.append(task)
            continue
        save_adapter(
            library.adapter(task),
            root / name,
            provenance=provenances[task],
            overwrite=overwrite or task in same,
        )
    refusal = f"another job writes into {str(root)!r}"
    with lock(root / f".{MAPPING_FILE}.lock", wait_seconds=LOCK_SECONDS, refusal=refusal):
        mapping = _read_mapping(root) | folders
        write_json(root / MAPPING_FILE, {"format": FORMAT, "version": VERSION, "folders": mapping})
    return ExportReport(folders, tuple(unchanged))


def folder_names(tasks: Sequence[str]) -> dict[str, str]:
    """A folder name for every task of a library, all distinct also where case does not count.

    Letters, digits, ".", "_" and "-" stay; a name with anything else, one that differs from
    another's by case alone, a reserved or a long one gets part of its own hash, so that it depends
    on no order.
    """
    folded = Counter(task.casefold() for task in tasks)
    names = {}
    for task in tasks:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", task)[:_MAX_NAME].strip(".")
        plain = name == task and folded[task.casefold()] == 1
        if not plain or name.partition(".")[0].lower() in _RESERVED or name == MAPPING_FILE:
            name = f"{name or 'task'}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
        names[task] = name
    return names


def _make_provenance(library: AdapterLibrary, task: str, fingerprint: str) -> dict[str, Any]:
    entry = asdict(library.entry(task))
    stored_hash = entry.pop("hash")
    return entry | {
        "descriptions": list(entry["descriptions"]),
        "adapter_hash": stored_hash or hash_adapter(library.adapter(task)),
        "base": library.spec.base.name,
        "library": fingerprint,
    }


def _is_of(folder: Path, provenance: dict[str, Any]) -> bool:
    """Whether a folder was written for this task and this adapter."""
    try:
        stored = read_json(folder / PROVENANCE_FILE)
    except ConfigError:
        return False
    return all(stored.get(name) == provenance[name] for name in ("task", "adapter_hash"))


def _is_whole(folder: Path, library: AdapterLibrary) -> bool:
    try:
        load_adapter(folder, spec=library.spec)
    except AdapterFormatError:
        return False
    return True


def _read_mapping(root: Path) -> dict[str, str]:
    """Folders of an earlier export into this place."""
    file = root / MAPPING_FILE
    if not file.exists():
        return {}
    mapping = read_json(file)
    check_format(mapping, file, name=FORMAT, version=VERSION, error=ConfigError)
    return dict(mapping["folders"])
