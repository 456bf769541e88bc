"""Guards of what is written: which folder may be replaced, one job at a time, who was first."""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from text_to_lora.errors import ConfigError

_P = ParamSpec("_P")
_T = TypeVar("_T")

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


@contextmanager
def lock(file: Path, *, wait_seconds: float, refusal: str) -> Iterator[None]:
    """Let one job at a time do something, by a lock on a file that is there for this alone.

    The operating system frees the lock when its process ends, however it ends. Where the file
    system knows no locks, nothing is locked.
    wait_seconds: how long to wait for another job
    refusal: what another job does, for the message

    Raises ConfigError when another job holds the lock for longer, or the file cannot be written.
    """
    is_new = not file.parent.exists()
    deadline = time.monotonic() + wait_seconds
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while (descriptor := _try_lock(file)) is None:
            if time.monotonic() >= deadline:
                waited = f" and did not end within {wait_seconds:g} s" if wait_seconds else ""
                raise ConfigError(f"{refusal}{waited}; repeat when it has ended")
            time.sleep(0.05)
    except OSError as error:
        raise write_error(file, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows refuses to delete an open file
            file.unlink()
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # something was written
                file.parent.rmdir()


def one_job(folder: Path) -> AbstractContextManager[None]:
    """Let one job at a time write into a folder.

    Raises ConfigError when another job does, or the folder cannot be written.
    """
    refusal = f"another job writes into {str(folder)!r}"
    return lock(folder / ".lock", wait_seconds=0, refusal=refusal)


def one_job_a_folder(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function with an argument `output_dir` run once at a time on each folder.

    Of the processes of one distributed job only the first holds the lock.
    """

    @functools.wraps(work)
    def work_alone(*args: _P.args, **options: _P.kwargs) -> _T:
        if os.environ.get("RANK", "0") != "0":
            return work(*args, **options)
        with one_job(Path(str(options["output_dir"]))):
            return work(*args, **options)

    return work_alone


def exchange_folders(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another, which gets the name of the first."""
    if _rename_at_once(temporary, target, exchange=True):
        return
    retired = temporary.with_name(f"{temporary.name}.old")
    target.rename(retired)
    try:
        temporary.rename(target)
    except OSError:
        retired.rename(target)
        raise
    retired.rename(temporary)


def rename_new(temporary: Path, target: Path) -> None:
    """Rename a file, or a folder that is not empty, to a name that is free.

    Raises FileExistsError when it is taken.
    """
    if _rename_at_once(temporary, target, exchange=False):
        return
    if temporary.is_dir():
        try:
            temporary.rename(target)  # fails where there is a file or a folder that is not empty
        except OSError as error:
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            raise
    else:
        target.touch(exist_ok=False)
        temporary.replace(target)


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


def _rename_at_once(source: Path, target: Path, *, exchange: bool) -> bool:
    """Exchange two names, or rename to a name that is free, by Linux's renameat2.

    Returns False where this cannot be done: the system or the file system does not have it.

    Raises FileExistsError when the second name is taken and not to be exchanged.
    """
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return False
    here = ctypes.c_int(-100)  # AT_FDCWD
    flag = ctypes.c_uint(2 if exchange else 1)  # RENAME_EXCHANGE, RENAME_NOREPLACE
    if rename(here, os.fsencode(source), here, os.fsencode(target), flag) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    return False


def _try_lock(file: Path) -> int | None:
    """Lock a file, which is made where there is none; give its descriptor, None when it is held."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            return descriptor
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            return descriptor
        if not isinstance(error, (BlockingIOError, FileNotFoundError, PermissionError)):
            os.close(descriptor)
            raise
    os.close(descriptor)  # held by another, or deleted by the one that held it
    return None
