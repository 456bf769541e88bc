"""Reading JSON that anybody may have written, and hashes of content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from text_to_lora.errors import ConfigError, T2LError, TaskDataError, shorten

MAX_JSON_BYTES: Final = 1 << 28
MAX_JSON_DEPTH: Final = 64
_MAX_DIGITS: Final = 308  # every integer of so many digits can become a float
_TOO_DEEP: Final = f"is nested more than {MAX_JSON_DEPTH} deep; write it flatter"


def read_json(
    path: Path | str, error: type[T2LError] = ConfigError, *, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any]:
    """Read a JSON object, as `parse_json` does.

    Raises `error` when the file is missing or no plain file, larger than `max_bytes`, not UTF-8,
    not JSON, not an object, or holds what `parse_json` refuses.
    """
    file = Path(path)
    try:
        payload = parse_json(read_bytes(file, max_bytes))
    except JsonError as cause:
        raise error(f"{str(file)!r} {cause}") from None
    if not isinstance(payload, dict):
        raise error(f"{str(file)!r} holds a {type(payload).__name__}; a JSON object is expected")
    return payload


def read_finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the JSON of finished work, so that it is not done again; None where there is none yet.

    identity: fields by which the work is told from other work

    Raises ConfigError when the file is of other work.
    """
    if not path.exists():
        return None
    payload = read_json(path)
    for field, value in identity.items():
        if payload.get(field) != value:
            raise ConfigError(
                f"{str(path)!r} has {field} {payload.get(field)!r}, this run {value!r}; delete it or "
                "choose another output folder"
            )
    return payload


class JsonError(ValueError):
    """Says what is wrong with a JSON text, as the predicate of a sentence about its file.

    line: of a text that is not JSON, counted from 1; None for the whole text
    """

    def __init__(self, problem: str, detail: str = "", *, line: int | None = None) -> None:
        self.line = line
        self._problem, self._detail = problem, detail
        place = [] if line is None or not detail else [f"line {line}"]
        super().__init__(": ".join(filter(None, [problem, *place, detail])))

    def in_task_file(self, path: Path, line: int | None = None) -> TaskDataError:
        """The same as the error of a task file; line: where the text stands in it, if that is known."""
        problem = ": ".join(filter(None, [self._problem.removeprefix("is "), self._detail]))
        return TaskDataError(problem, path=path, line=self.line if line is None else line)


def read_bytes(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Read a file of at most `max_bytes`.

    Raises JsonError when there is no such file, or it cannot be read or is larger.
    """
    with _open_file(path) as stream:
        return _read_at_most(stream.read, max_bytes)


def read_task_json(path: Path) -> Any:
    """Read any JSON value of a task file.

    Raises TaskDataError with file and line where `read_bytes` and `parse_json` raise JsonError.
    """
    try:
        return parse_json(read_bytes(path))
    except JsonError as error:
        raise error.in_task_file(path) from None


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of every line of a JSON lines file that is not blank.

    Raises TaskDataError with file and line where a line is no JSON that `parse_json` takes.
    """
    line: int | None = None
    try:
        with _open_file(path) as stream:
            line = 1
            while content := _read_at_most(stream.readline, MAX_JSON_BYTES):
                if content.strip():
                    yield line, parse_json(content)
                line += 1
    except JsonError as error:
        raise error.in_task_file(path, line) from None


def parse_json(content: bytes | str) -> Any:
    """Parse JSON that anybody may have written; a byte order mark is dropped.

    Raises JsonError for what is not UTF-8 or not JSON, and for JSON that is harmful later: nested
    deeper than MAX_JSON_DEPTH, a key twice in one object (readers take either value), an integer
    that no float holds, half of a surrogate pair (which no file can be written with).
    """
    if isinstance(content, bytes):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise JsonError(
                f"is not UTF-8 (byte {error.start}); save it as UTF-8", line=line
            ) from None
    else:
        text = content.removeprefix("\ufeff")
    try:
        value = json.loads(text, parse_int=_parse_int, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise JsonError("is not JSON", error.msg, line=error.lineno) from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    if "\\u" in text or text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        _check_values(value)
    return value


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
        raise error(
            f"{str(path)!r} has format {shorten(payload.get('format'))}; {name!r} is expected"
        )
    written = payload.get("version")
    if written != version:
        is_earlier = isinstance(written, int) and written < version
        raise error(
            f"{str(path)!r} has version {shorten(written)}; this release reads {version}; "
            f"{when_earlier if is_earlier else 'install the release that wrote it'}"
        )


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _open_file(path: Path) -> BinaryIO:
    """Open a plain file; a pipe or a device would never end."""
    try:
        if path.is_file():
            return path.open("rb")
        state = "is not a file" if path.exists() else "does not exist"
    except OSError as error:
        raise JsonError(f"cannot be read ({error.strerror or error})") from None
    raise JsonError(f"{state}; check the path")


def _read_at_most(read: Callable[[int], bytes], max_bytes: int) -> bytes:
    try:
        content = read(max_bytes + 1)
    except OSError as error:
        raise JsonError(f"cannot be read ({error.strerror or error})") from None
    if len(content) > max_bytes:
        raise JsonError(f"is larger than {max_bytes:,} bytes; check the path")
    return content


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise JsonError(
            f"has a number of {len(digits)} digits ({digits[:8]}...); write a smaller one"
        )
    return int(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in mapping if names.count(name) > 1)
        raise JsonError(f"has the key {shorten(twice)} twice in one object; leave one out")
    return mapping


def _check_values(value: Any) -> None:
    """Check the depth of a JSON value, and that every text in it is whole."""
    pending = [(value, 1, "")]
    while pending:
        item, depth, place = pending.pop()
        if depth > MAX_JSON_DEPTH:
            raise JsonError(_TOO_DEEP)
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(item, str):
            _check_text(item, place)
        elif isinstance(item, dict):
            children = item.items()
        elif isinstance(item, list):
            children = enumerate(item)
        for key, child in children:
            if isinstance(key, str):
                _check_text(key, place)
            if isinstance(child, str | dict | list):
                pending.append((child, depth + 1, f"{place}[{key!r}]"))


def _check_text(text: str, place: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise JsonError(
            f"has half of a surrogate pair in {shorten(text)}, at {place[:200] or 'a key'}; "
            "write the whole character"
        )


def check_no_adapter(folder: Path, model: str) -> None:
    """Check that no adapter lies in a model's folder, where transformers would load it too.

    model: what the folder is of, for the message

    Raises ConfigError when one does.
    """
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{model} holds adapter_config.json, an adapter, which would become a part of it; move the "
            "adapter's files away, or name a model without one"
        )
