"""The command `t2l`: verbs without logic; every error that a user can act on is one line."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

from text_to_lora.errors import T2LError, T2LWarning

_STOPPED: Final = 130  # exit code after Ctrl-C, also of typer


def main() -> None:
    """Run the command line.

    A T2LError, a wrong option and a standard output that cannot be written become one line on
    stderr and exit code 2, Ctrl-C one line and 130; anything else is a bug and shows its traceback.
    """
    with _interrupts_end_imports(), warnings.catch_warnings(), _logs_on_stderr():
        warnings.showwarning = _warn_in_one_line(warnings.showwarning)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding does not have
        try:
            code = _run()
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = _STOPPED
        except OSError as error:
            if not _is_of_output(error):
                raise
            _fail(f"cannot write to the standard output: {error.strerror or error}")
    if code == _STOPPED:
        print("stopped; nothing half-written was left", file=sys.stderr)
    sys.exit(code)


def _run() -> Any:
    """Run the verb; give the exit code, None for success."""
    from typer import TyperException

    from text_to_lora.cli.app import app

    try:
        return app(prog_name="t2l", standalone_mode=False)
    except T2LError as error:
        _fail(str(error))
    except TyperException as error:  # wrong usage
        _fail(error.format_message(), context=getattr(error, "ctx", None))


def _is_of_output(error: OSError) -> bool:
    """Whether an error says that the standard output cannot be written; the rest is then dropped."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    is_of_output = place is not None and place.tb_frame.f_code.co_name in ("echo", "main")
    if is_of_output:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_of_output


@contextmanager
def _interrupts_end_imports() -> Iterator[None]:
    """Let Ctrl-C end the process at once while modules load.

    Libraries catch KeyboardInterrupt there along with the errors of an optional import, and go on.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # as in the background of a shell, which ignores Ctrl-C
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            print(f"{show_cursor}stopped", file=sys.stderr, flush=True)
            os._exit(_STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    """Print what this package logs, such as the progress of a download, within a `with` block."""
    logger = logging.getLogger("text_to_lora")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _fail(message: str, *, context: Any = None) -> NoReturn:
    """Say what is wrong and leave with exit code 2.

    context: of typer, when an option or argument is wrong
    """
    if message.startswith("Usage:"):  # help, where a verb is missing
        print(message, file=sys.stderr)
        sys.exit(2)
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    print(f"error: {' '.join(message.split()).removesuffix('.')}{hint}", file=sys.stderr)
    sys.exit(2)


def _warn_in_one_line(show_others: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` with our own warnings as one line, others as `show_others` has them."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, T2LWarning):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show_others(message, category, *place, **more)

    return show
