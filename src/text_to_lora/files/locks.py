"""Locks on files, by which one job at a time works on a folder."""

from __future__ import annotations

import errno
import functools
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from text_to_lora.errors import ConfigError
from text_to_lora.files.outputs import write_error

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
def scratch_folder(target: Path) -> Iterator[Path]:
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
