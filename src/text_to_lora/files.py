"""Folders are written whole or not at all; JSON carries a format and a version; content is hashed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.outputs import check_output, exchange_folders, rename_new, write_error


@contextmanager
def write_folder(
    path: Path | str,
    *,
    overwrite: bool = False,
    check_replaced: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Give a temporary folder beside `path` that is renamed into place on success.

    A reader sees the whole folder or none of it; an error or a kill leaves `path` as it was. A link
    stays a link: the folder that it points to is written.
    overwrite: replace the folder that is there, if `check_output` lets it be replaced
    check_replaced: called just before a folder is replaced; an error that it raises keeps the folder

    Raises ConfigError as `check_output` does, at the start and again before the renaming, so that of
    two jobs that make one new folder the later one fails; and when `path` cannot be written.
    """
    check_output(path, overwrite=overwrite)
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o644)  # safetensors makes its files for their owner alone
                _sync(file)
        temporary.chmod(0o755)
        _put_in_place(temporary, target, path, check_replaced if overwrite else None)
        _sync(target.parent)
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise write_error(path, cause) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path | str, write: Callable[[Path], None], *, overwrite: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    overwrite: False fails when the file exists by then, and keeps it

    Raises ConfigError when the disk is full, `path` cannot be written, or it exists and may not be
    replaced.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _sync(temporary)
        if overwrite:
            temporary.replace(target)
        else:
            rename_new(temporary, target)
    except FileExistsError:
        raise ConfigError(
            f"output file {str(path)!r} exists already; choose another path"
        ) from None
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise write_error(target, cause) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, payload: Mapping[str, Any], *, overwrite: bool = True) -> None:
    """Write sorted, indented JSON, whole or not at all; `overwrite` as in `write_file`."""
    text = json.dumps(payload, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_file(path, lambda temporary: _write_text(temporary, text), overwrite=overwrite)


def read_json(path: Path | str, error: type[T2LError] = ConfigError) -> dict[str, Any]:
    """Read a JSON object.

    Raises `error` when the file is missing, not UTF-8, not JSON or not an object.
    """
    file = Path(path)
    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{str(file)!r} does not exist; check the path") from None
    except UnicodeDecodeError as cause:
        raise error(f"{str(file)!r} is not UTF-8 (byte {cause.start}); save it as UTF-8") from None
    except json.JSONDecodeError as cause:
        raise error(f"{str(file)!r} is not JSON: line {cause.lineno}: {cause.msg}") from None
    if not isinstance(payload, dict):
        raise error(f"{str(file)!r} holds a {type(payload).__name__}; a JSON object is expected")
    return payload


def check_format(
    payload: Mapping[str, Any],
    path: Path | str,
    *,
    name: str,
    version: int,
    error: type[T2LError],
    when_earlier: str = "install the release that wrote it",
) -> None:
    """Check the fields `format` and `version` of a file of ours.

    when_earlier: what to do about a file of an earlier version

    Raises `error` when the file is of another kind, or of a version that this code does not read.
    """
    if payload.get("format") != name:
        raise error(f"{str(path)!r} has format {payload.get('format')!r}; {name!r} is expected")
    found = payload.get("version")
    if found != version:
        earlier = isinstance(found, int) and found < version
        raise error(
            f"{str(path)!r} has version {found!r}; this release reads {version}; "
            f"{when_earlier if earlier else 'install the release that wrote it'}"
        )


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
        exchange_folders(temporary, target)
        return
    try:
        rename_new(temporary, target)
    except FileExistsError:
        raise ConfigError(
            f"output {str(path)!r} exists already: another job made it in the meantime, and it is "
            "left as it is; choose another path"
        ) from None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _system_error(error: Exception) -> OSError | None:
    """The system's error behind one of writing; safetensors gives its number in words only."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    if type(error).__name__ != "SafetensorError" or number is None:
        return None
    return OSError(int(number[1]), os.strerror(int(number[1])))
