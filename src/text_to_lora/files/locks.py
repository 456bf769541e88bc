"""Locks on files, by which one job at a time works on a folder."""

from __future__ import annotations

import errno
import functools
import os
import sys
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
