"""The exception tree; every error that a caller can act on is one of these.

T2LError
├── ConfigError(ValueError)          a field has a value that cannot work
├── SpecError(ValueError)            an adapter or target does not fit this base model
├── AdapterFormatError(ValueError)   a folder is not a LoRA adapter that we can read
├── CheckpointError(RuntimeError)    a hypernetwork folder is incomplete, foreign or from another version
├── TaskDataError(ValueError)        a task file is wrong; carries path and line
└── BackendError(RuntimeError)       a text-generation backend failed; carries its output

The command line turns a `T2LError` into one line and exit code 2; anything else is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NUM_LISTED: Final = 4  # names spelled out in a message
_MAX_SHOWN: Final = 200  # characters of a value in a message
_MAX_MESSAGE: Final = 2000  # characters of a message


class T2LError(Exception):
    """Root of the errors that a user of text-to-lora can act on.

    The message is one line of bounded length, whatever the values from outside in it hold:
    characters that do not print are escaped, and the middle of a very long one is left out.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _MAX_MESSAGE:
            start, end = message[: _MAX_MESSAGE // 2], message[-_MAX_MESSAGE // 2 :]
            message = f"{start} ... ({len(message)} characters) ... {end}"
        super().__init__("".join(c if c.isprintable() else repr(c).strip("'") for c in message))


class ConfigError(T2LError, ValueError):
    """A field, argument or option has a value that cannot work."""


class SpecError(T2LError, ValueError):
    """An adapter, a target module or a layer does not fit this base model."""


class AdapterFormatError(T2LError, ValueError):
    """A folder is not a LoRA adapter that we can read."""


class CheckpointError(T2LError, RuntimeError):
    """A hypernetwork folder is incomplete, foreign, corrupt or of another version."""


class TaskDataError(T2LError, ValueError):
    """A task file is wrong.

    path: the file at fault; line: its line or row, counted from 1, None for the whole file
    """

    def __init__(self, message: str, *, path: Path | str, line: int | None = None) -> None:
        self.path = Path(path)
        self.line = line
        place = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{place}: {message}")


class BackendError(T2LError, RuntimeError):
    """A text-generation backend failed; `output` holds what it printed."""

    def __init__(self, message: str, *, output: str = "") -> None:
        self.output = output
        super().__init__(message)


class T2LWarning(UserWarning):
    """Something works, but not as the caller may think."""


def list_some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are, for a message of one line."""
    listed = list(names)
    more = f" and {len(listed) - _NUM_LISTED} more" if len(listed) > _NUM_LISTED else ""
    shown = [
        name if name.isprintable() and len(name) <= _MAX_SHOWN else shorten(name)
        for name in listed[:_NUM_LISTED]
    ]
    return ", ".join(shown) + more


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shorten(value: object) -> str:
    """A value from outside as a message shows it: on one line, of bounded length."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(text)} characters)"


@contextmanager
def needs_extra(extras: str, what: str = "this") -> Iterator[None]:
    """Turn a package that is missing inside a `with` block into one line.

    extras: of this distribution that bring the package; what: needs it

    Raises ConfigError saying what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == "text_to_lora":
            raise
        raise ConfigError(
            f"{what} needs the package {missing!r}; pip install 'text-to-lora[{extras}]'"
        ) from None
