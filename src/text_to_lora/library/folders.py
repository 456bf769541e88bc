"""PEFT folders in a tree, and what their provenance and model cards say of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import AdapterFormatError, ConfigError, T2LWarning
from text_to_lora.files import JsonError, read_bytes, read_json
from text_to_lora.library.library import LibraryEntry
from text_to_lora.lora.peft_config import CONFIG_FILE
from text_to_lora.lora.peft_format import PROVENANCE_FILE, WEIGHTS_FILE

CARD_FILE: Final = "README.md"

_MAX_CARD: Final = 1 << 20  # bytes
# The hub's cache, and the names and cards of the Lots-of-LoRAs collection.
_HUB_CACHE: Final = re.compile(r"(?:.*/)?models--.+?--(?P<name>[^/]+)/snapshots/[0-9a-f]+")
_LOTS_OF_LORAS: Final = re.compile(r".+-r\d+-(?P<task>task\d+\w*)")
_LOTS_OF_LORAS_CARD: Final = re.compile(r"LoRA trained on (?P<task>task\d+_\w+)")
# What trainers write into every card says nothing of the task.
_NO_DESCRIPTION: Final = re.compile(
    r"LoRA trained on|This model is a fine-tuned version of|This is the model card|<|\[|!|\||[-*>] "
)
_UNDER_TITLE: Final = re.compile(r"^# .*\n(?P<text>(?:(?!#).*\n?)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A PEFT folder that is to go into a library.

    task: its name there; source: where it comes from, as recorded in the library
    """

    task: str
    folder: Path
    source: str


def find_adapters(root: Path | str, *, name: str | None = None) -> list[AdapterFolder]:
    """Find the PEFT folders in a tree, sorted by path.

    name: what the tree is called where it comes from, such as "OWNER/NAME"; by default its path

    A folder's task is the one that our own provenance.json or a card of Lots-of-LoRAs names, else
    its path below `root`. Hidden folders and what lies below an adapter (checkpoints of its
    training) are left alone.

    Raises ConfigError when `root` is no folder or holds no adapter.
    """
    top = Path(root)
    source = str(root) if name is None else name
    if not top.is_dir():
        raise ConfigError(f"{source!r} is not a folder; give one with PEFT adapters in it")
    adapters = []
    for folder in _walk(top):
        path = folder.relative_to(top).as_posix()
        origin = source if path == "." else f"{source.rstrip('/')}/{path}"
        if path == ".":
            path = Path(source.rstrip("/")).name or top.resolve().name
        adapters.append(AdapterFolder(_name_task(folder, path), folder, origin))
    if not adapters:
        raise ConfigError(
            f"{source!r} holds no PEFT adapter ({CONFIG_FILE} with {WEIGHTS_FILE}) at any depth"
        )
    return adapters


def make_entry(adapter: AdapterFolder, descriptions: Mapping[str, Sequence[str]]) -> LibraryEntry:
    """Describe an adapter by the given descriptions, else by its provenance, else by its card.

    descriptions: task -> texts

    Raises AdapterFormatError when its provenance holds what cannot be.
    """
    provenance = _read_provenance(adapter.folder)
    texts = provenance.get("descriptions", provenance.get("description"))
    texts = texts if isinstance(texts, list) else [texts]
    numbers: dict[str, Any] = {
        field: provenance.get(field) for field in ("validation_loss", "base_loss", "steps", "rows")
    }
    try:
        return LibraryEntry(
            task=adapter.task,
            descriptions=(
                tuple(descriptions.get(adapter.task, ()))
                or tuple(filter(None, texts))
                or tuple(filter(None, [_read_card_description(adapter.folder)]))
            ),
            source=adapter.source,
            **numbers,
        )
    except ConfigError as error:
        file = adapter.folder / PROVENANCE_FILE
        raise AdapterFormatError(f"{str(file)!r}: {error}") from error


def _walk(top: Path) -> Iterator[Path]:
    """Folders with an adapter_config.json, none below another, hidden ones left out."""

    def warn(error: OSError) -> None:
        warnings.warn(
            f"{error.filename!r} cannot be read ({error.strerror}); what is below is left out",
            T2LWarning,
            stacklevel=4,
        )

    seen: set[str] = set()
    for current, folders, files in os.walk(top, onerror=warn, followlinks=True):
        real = os.path.realpath(current)
        is_adapter = CONFIG_FILE in files and real not in seen
        if is_adapter or real in seen:  # seen: a link back
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen.add(real)
        if is_adapter:
            yield Path(current)


def _name_task(folder: Path, path: str) -> str:
    """What the task of a folder is called; `path` is its place in the tree."""
    try:
        name = _read_provenance(folder).get("task")
    except AdapterFormatError:  # raised again where the adapter is read
        name = None
    if isinstance(name, str) and name.strip().isprintable() and 0 < len(name.strip()) <= 255:
        return name.strip()
    if cached := _HUB_CACHE.fullmatch(path):
        path = cached["name"]
    if public := _LOTS_OF_LORAS.fullmatch(path.rpartition("/")[2]):
        card = _LOTS_OF_LORAS_CARD.search(_read_card(folder))
        return card["task"] if card else public["task"]
    return path


def _read_card(folder: Path) -> str:
    """Text of a model card without its header and comments; "" when there is none."""
    try:
        text = read_bytes(folder / CARD_FILE, max_bytes=_MAX_CARD).decode(errors="replace")
    except JsonError:  # missing, not to be read, or no card by its size
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    before, *comments = text.split("<!--")
    return before + "".join(comment.partition("-->")[2] for comment in comments)


def _read_card_description(folder: Path) -> str:
    """The paragraph between the title of a card and its next heading; "" when it says nothing."""
    section = _UNDER_TITLE.search(_read_card(folder))
    for paragraph in section["text"].split("\n\n") if section else ():
        text = " ".join(paragraph.split())
        if text and not _NO_DESCRIPTION.match(text):
            return text
    return ""


def _read_provenance(folder: Path) -> dict[str, Any]:
    file = folder / PROVENANCE_FILE
    return read_json(file, AdapterFormatError) if os.path.lexists(file) else {}
