"""The command `t2l`: verbs without logic; every error that a user can act on is one line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TextIO

from text_to_lora.errors import T2LError, T2LWarning


def main() -> None:
    """Run the command line.

    A T2LError and a wrong option become one line on stderr and exit code 2, Ctrl-C one line and
    130; anything else is a bug and shows its traceback.
    """
    from typer import TyperException

    from text_to_lora.cli.app import app

    with warnings.catch_warnings(), _logs_on_stderr():
        warnings.showwarning = _warn_in_one_line(warnings.showwarning)
        try:
            code = app(prog_name="t2l", standalone_mode=False)
        except T2LError as error:
            _fail(str(error))
        except TyperException as error:  # wrong usage
            _fail(error.format_message(), context=getattr(error, "ctx", None))
    if code == 130:  # what typer makes of Ctrl-C
        print("stopped; nothing half-written was left", file=sys.stderr)
    sys.exit(code)


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


def _warn_in_one_line(shown: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` with our own warnings as one line, others as `shown` has them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, T2LWarning):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            shown(message, category, filename, lineno, file, line)

    return show
