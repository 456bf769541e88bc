"""Folders are written whole or not at all; JSON carries a format and a version; content is hashed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, T2LError


@contextmanager
def write_folder(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path` that is renamed into place on success.

    A reader sees the whole folder or none of it; an error or a kill leaves `path` as it was.

    Raises ConfigError when `path` exists without `overwrite`, is a file, or cannot be written.
    """
    target = Path(path)
    if target.exists() and (not overwrite or not target.is_dir()):
        kind = "folder" if target.is_dir() else "file"
        remedy = "pass --overwrite or choose another path" if kind == "folder" else "choose another"
        raise ConfigError(f"output {kind} {str(target)!r} exists already; {remedy}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _write_error(target, error) from error
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o644)  # safetensors makes its files for their owner alone
                _sync(file)
        temporary.chmod(0o755)
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(retired / "folder")
            temporary.rename(target)
            shutil.rmtree(retired)
        else:
            temporary.rename(target)
        _sync(target.parent)
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise _write_error(target, cause) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path | str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Raises ConfigError when the disk is full or `path` cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _sync(temporary)
        temporary.replace(target)
    except Exception as error:
        if (cause := _system_error(error)) is None:
            raise
        raise _write_error(target, cause) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, payload: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON, whole or not at all."""
    write_text(path, json.dumps(payload, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_file(path, write)


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


def _write_error(path: Path, error: OSError) -> ConfigError:
    if error.errno == errno.ENOSPC:
        return ConfigError(f"no space left on the disk of {str(path)!r}; free some, then repeat")
    return ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}")
