"""Folders and files that are written whole or not at all: a temporary one is renamed into place."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError
from text_to_lora.files.locks import scratch_folder
from text_to_lora.files.outputs import check_output, write_error


@contextmanager
def write_folder(
    path: Path | str,
    *,
    overwrite: bool = False,
    check_replaced: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Give a temporary folder beside `path` that is renamed into place on success.

    A reader sees the whole folder or none of it; an error or a kill leaves `path` as it was, and the
    next job that writes `path` deletes what a killed one left beside it. A link
    stays a link: the folder that it points to is written.
    overwrite: replace the folder that is there, if `check_output` lets it be replaced
    check_replaced: called just before a folder is replaced; an error that it raises keeps the folder

    Raises ConfigError as `check_output` does, at the start and again before the renaming, so that of
    two jobs that make one new folder the later one fails; and when `path` cannot be written.
    """
    check_output(path, overwrite=overwrite)
    with _errors_of_writing(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target) as temporary:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    file.chmod(0o644)  # safetensors makes its files for their owner alone
                    _sync(file)
            temporary.chmod(0o755)
            _put_in_place(temporary, target, path, check_replaced if overwrite else None)
            _sync(target.parent)


def write_file(
    path: Path | str, write: Callable[[Path], object], *, overwrite: bool = True
) -> None:
    """Let `write` fill a file in a temporary folder beside `path`, then rename it into place.

    The next job that writes `path` deletes what a killed one left beside it.
    overwrite: False fails when the file exists by then, and keeps it

    Raises ConfigError when the disk is full, `path` cannot be written, or it exists and may not be
    replaced.
    """
    target = Path(path)
    with _errors_of_writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target) as scratch:
            temporary = scratch / "content"
            write(temporary)
            _sync(temporary)
            try:
                if overwrite:
                    temporary.replace(target)
                else:
                    _rename_new(temporary, target)
            except FileExistsError:
                raise ConfigError(
                    f"output file {str(path)!r} exists already; choose another path"
                ) from None


def write_json(path: Path | str, payload: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Write sorted, indented JSON, whole or not at all; `overwrite` as in `write_file`."""
    text = json.dumps(payload, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(path, text, overwrite=overwrite)


def write_text(path: Path | str, text: str, *, overwrite: bool = True) -> None:
    """Write a text as UTF-8, whole or not at all; `overwrite` as in `write_file`."""
    write_file(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)


def _put_in_place(
    temporary: Path, target: Path, path: Path | str, check_replaced: Callable[[], None] | None
) -> None:
    """Give a finished folder its name.

    path: the name as the user wrote it; check_replaced: None where no folder may be replaced

    Raises ConfigError when there is a folder that may not be replaced.
    """
    if check_replaced is not None and target.exists():
        check_output(path, overwrite=True)
        check_replaced()
        _exchange_folders(temporary, target)
        return
    try:
        _rename_new(temporary, target)
    except FileExistsError:
        raise ConfigError(
            f"output {str(path)!r} exists already: another job made it in the meantime, and it is "
            "left as it is; choose another path"
        ) from None


def _exchange_folders(temporary: Path, target: Path) -> None:
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


def _rename_new(temporary: Path, target: Path) -> None:
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors_of_writing(path: Path | str) -> Iterator[None]:
    """Turn an error of the system into one for users; safetensors gives its number in words only."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ != "SafetensorError" or number is None:
            raise
        code = int(number[1])
        raise write_error(path, OSError(code, os.strerror(code))) from error
