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
    """What an export did: folder name of every task that was asked for, and which were there."""

    folders: dict[str, str]
    kept: tuple[str, ...]


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
    chosen = library.names if tasks is None else list(dict.fromkeys(tasks))
    names = folder_names(library.names)
    folders = {library.entry(task).task: names[task] for task in chosen}
    _read_mapping(root)
    kept = []
    fingerprint = library.fingerprint
    provenances = {task: _provenance(library, task, fingerprint) for task in folders}
    ours = {task for task, name in folders.items() if _is_ours(root / name, provenances[task])}
    for task, name in folders.items():
        _check_folder(root / name, task, ours=task in ours, overwrite=overwrite)
    for number, (task, name) in enumerate(folders.items(), 1):
        progress(f"writing {number} of {len(folders)}: {task}")
        if task in ours and _is_whole(root / name, library):
            kept.append(task)
            continue
        save_adapter(
            library.adapter(task),
            root / name,
            provenance=provenances[task],
            overwrite=overwrite or task in ours,
        )
    refusal = f"another job writes into {str(root)!r}"
    with lock(root / f".{MAPPING_FILE}.lock", wait_seconds=LOCK_SECONDS, refusal=refusal):
        mapping = _read_mapping(root) | folders
        write_json(root / MAPPING_FILE, {"format": FORMAT, "version": VERSION, "folders": mapping})
    return ExportReport(folders, tuple(kept))


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


def _provenance(library: AdapterLibrary, task: str, fingerprint: str) -> dict[str, Any]:
    entry = asdict(library.entry(task))
    return {
        **{name: value for name, value in entry.items() if name != "hash"},
        "descriptions": list(entry["descriptions"]),
        "adapter_hash": library.entry(task).hash or hash_adapter(library.adapter(task)),
        "base": library.spec.base.name,
        "library": fingerprint,
    }


def _check_folder(folder: Path, task: str, *, ours: bool, overwrite: bool) -> None:
    if folder.exists() and not (ours or overwrite):
        raise ConfigError(
            f"{str(folder)!r} is not this library's adapter of {task!r}; "
            "pass --overwrite or choose another folder"
        )
    check_output(folder, overwrite=True)


def _is_ours(folder: Path, provenance: dict[str, Any]) -> bool:
    """Whether a folder was written for this task and this adapter."""
    try:
        found = read_json(folder / PROVENANCE_FILE)
    except ConfigError:
        return False
    return all(found.get(name) == provenance[name] for name in ("task", "adapter_hash"))


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
