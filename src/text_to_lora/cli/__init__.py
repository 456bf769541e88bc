"""The command `t2l`: verbs without logic; every error that a user can act on is one line."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

from text_to_lora.errors import T2LError, T2LWarning


def main() -> None:
    """Run the command line; a T2LError becomes one line on stderr and exit code 2."""
    from text_to_lora.cli.app import app

    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, T2LWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        app()
    except T2LError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; nothing half-written was left", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe went away, as `head` does
        sys.stderr.close()
        sys.exit(141)
