"""Folders and files written whole or not at all, by one job at a time.

A temporary one is filled and renamed into place; locks on files keep jobs apart.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import glob
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from text_to_lora.errors import ConfigError
from text_to_lora.files.outputs import check_output, write_error

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
        with _scratch_folder(target) as temporary:
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
        with _scratch_folder(target) as scratch:
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


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """Give a new hidden folder beside `target`, and delete it in the end if it is still there.

    Such folders of jobs that were killed are deleted first. The folder of a job that runs is locked, and
    the operating system frees the lock when the job ends, however it ends.
    """
    prefix = f".{target.name}.t2l-"
    for leftover in target.parent.glob(f"{glob.escape(prefix)}????????"):
        descriptor = _lock_folder(leftover, wait=False)
        if descriptor is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(descriptor)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        descriptor = _lock_folder(folder, wait=True)
        if folder.exists():  # otherwise another job took it for a leftover before it was locked
            break
        if descriptor is not None:
            os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _lock_folder(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder and give its descriptor; None where it is locked already or locks are unknown."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


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
