"""Which output folder may be replaced: one that holds nothing but what programs like this write."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from text_to_lora.errors import ConfigError

MODELFILE: Final = "Modelfile"  # of Ollama
MODELFILE_START: Final = "# Written by text-to-lora"  # the first words of one that is ours
_TEMPLATES_FOLDER: Final = "additional_chat_templates"  # of transformers' tokenizers
_TOKENIZER_NAMES: Final = (
    r"(added_tokens|special_tokens_map|tokenizer|tokenizer_config|vocab)\.json|vocab\.txt|merges\.txt"
    r"|(sentencepiece|sentencepiece\.bpe|spiece|spm|tiktoken|tokenizer)\.model"
    r"|chat_template\.(jinja|json)|((video_)?preprocessor|processor)_config\.json"
)
# Names of the files in a folder that --overwrite replaces, by its kind: the `format` in its JSON
# file for ours; "adapter" and "model" for what PEFT and transformers write by save_pretrained.
_FILE_NAMES: Final = {
    "adapter": r"adapter_config\.json|adapter_model\.(safetensors|bin)|provenance\.json"
    r"|adapters\.safetensors"  # of mlx-lm
    rf"|README\.md|{_TOKENIZER_NAMES}",
    "model": r"(generation_)?config\.json|(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)"
    rf"|(model\.safetensors|pytorch_model\.bin)\.index\.json|{_TOKENIZER_NAMES}",
    "checkpoint": r"COMPLETE|(model|state)\.safetensors|(optimizer|scheduler)\.pt"
    r"|(trainer_state|history)\.json",
    "text-to-lora hypernetwork": r"config\.json|(model|confidence|descriptions)\.safetensors",
    "text-to-lora library": r"index\.json|library\.safetensors",
    "text-to-lora export": r"index\.json",
    "text-to-lora tasks": r"(index|tasks)\.json|(data|descriptions)\.jsonl",
    "ollama": r"Modelfile|adapter\.gguf",
}
# Kinds that also hold folders of adapters; None: several adapters, written at once.
_WITH_ADAPTERS: Final = ("adapter", "text-to-lora export", None)


def check_output(path: Path | str, *, overwrite: bool, sources: Iterable[Path | str] = ()) -> None:
    """Refuse an output folder that cannot be made, or that may not be replaced.

    overwrite: whether a folder that is there may be replaced; one is when it is empty or holds
        nothing but what this program, PEFT and transformers write
    sources: folders that are read, none of which may be replaced

    Raises ConfigError when `path` is a file, a folder that exists already, or, with `overwrite`, a
    folder that holds anything else (the message names the first such file), a source, the current
    folder, one above it or a mount point.
    """
    try:
        target, current = Path(os.path.realpath(path)), Path.cwd()
    except OSError as error:  # the current folder was deleted
        raise write_error(path, error) from error
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"output file {str(path)!r} exists already; choose another path")
    if os.path.ismount(target) or current.is_relative_to(target):
        raise ConfigError(
            f"output folder {str(path)!r} is the current folder, one above it or a mount point, "
            "which cannot be replaced; name a new folder"
        )
    if not overwrite:
        raise ConfigError(
            f"output folder {str(path)!r} exists already; pass --overwrite or choose another path"
        )
    for source in sources:
        if Path(os.path.realpath(source)).is_relative_to(target):
            raise ConfigError(
                f"output folder {str(path)!r} holds what is read, {str(source)!r}; choose another path"
            )
    try:
        foreign = _first_foreign(target)
    except OSError as error:
        raise ConfigError(
            f"output folder {str(path)!r} cannot be read ({error.strerror}); choose another path"
        ) from None
    if foreign is not None:
        raise ConfigError(
            f"output folder {str(path)!r} holds {str(foreign.relative_to(target))!r}, which this "
            "program did not write, so that --overwrite does not replace it; choose another folder, "
            "or move the file away"
        )


def check_results(folder: Path, *, marker: str, names: Iterable[str]) -> None:
    """Refuse a folder where results would replace files that no earlier run has written.

    marker: what an earlier run leaves in the folder; names: of the files that will be written

    Raises ConfigError naming the first such file.
    """
    if (folder / marker).exists():
        return
    for name in names:
        if (folder / name).exists():
            raise ConfigError(
                f"output folder {str(folder)!r} holds {name!r}, but no {marker!r} of an earlier run; "
                "choose another folder, or move the file away"
            )


def write_error(path: Path | str, error: OSError) -> ConfigError:
    """The error for users behind one of the system's in writing."""
    if error.errno == errno.ENOSPC:
        return ConfigError(f"no space left on the disk of {str(path)!r}; free some, then repeat")
    return ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}")


def _first_foreign(folder: Path) -> Path | None:
    """The first file in a folder that neither this program nor PEFT or transformers writes."""
    kind = _kind(folder)
    names = re.compile(_FILE_NAMES[kind] if kind else "")
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            if not names.fullmatch(entry.name):
                return entry
        elif kind in _WITH_ADAPTERS and _kind(entry) == "adapter":
            if (foreign := _first_foreign(entry)) is not None:
                return foreign
        elif entry.name != _TEMPLATES_FOLDER or kind not in ("adapter", "model"):
            return next((file for file in sorted(entry.rglob("*")) if not file.is_dir()), entry)
        elif templates := [file for file in sorted(entry.iterdir()) if file.suffix != ".jinja"]:
            return templates[0]
    return None


def _kind(folder: Path) -> str | None:
    """What a folder is, as a key of _FILE_NAMES; None when it is nothing that we know."""
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "COMPLETE").is_file():
        return "checkpoint"
    with suppress(OSError, ValueError):
        if (folder / MODELFILE).read_text(encoding="utf-8").startswith(MODELFILE_START):
            return "ollama"
    for name in ("index.json", "config.json"):
        with suppress(OSError, ValueError, RecursionError):
            payload = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(payload, dict):
                if (kind := str(payload.get("format"))).startswith("text-to-lora"):
                    return kind if kind in _FILE_NAMES else None
                if name == "config.json" and isinstance(payload.get("model_type"), str):
                    return "model"
    return None
