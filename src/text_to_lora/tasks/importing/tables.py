"""Rows of a table by column: CSV, TSV, JSON, JSON lines or Parquet, read by one reader for all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, TaskDataError, list_some, shorten
from text_to_lora.files import (
    MAX_JSON_BYTES,
    JsonError,
    read_bytes,
    read_json_lines,
    read_task_json,
)

FORMS: Final = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_TURNS: Final = ("conversations", "messages")  # ShareGPT, and the form of chat services
_COLUMN_ROLES: Final = {"instruction": "system", "input": "user", "output": "assistant"}
_ROLES: Final = {"human": "user", "gpt": "assistant"}

_BATCH_ROWS: Final = 8  # so that even texts of a megabyte each are noticed early
_ALWAYS_READ: Final = 1 << 23  # bytes
_MAX_RATIO: Final = 100  # of unpacked bytes to those of the file; texts reach about 20

Cells = Mapping[str, Any]
"""The values of one row by column."""
CheckHeader = Callable[[Sequence[str], int | None], None]
"""Called with the columns, and in JSON with each row's line; raises what it likes."""


def read_table(
    path: Path | str,
    *,
    encoding: str = "utf-8",
    check_header: CheckHeader = lambda header, line: None,
) -> Iterator[tuple[int, Cells]]:
    """Yield the line (or row, from 1) and the cells of every row of a file, in its order.

    path: a file in the form that its name says; CSV and TSV begin with a header, and a CSV whose
        header has semicolons and no comma is separated by semicolons
    encoding: of CSV and TSV; a byte order mark is dropped

    A conversation ("conversations" of ShareGPT, or "messages") is given the columns `instruction`
    (its system turn), `input` and `output` (its first turns of user and model).

    Raises ConfigError when the name tells no form or there is no such encoding, TaskDataError with
    file and line when the file cannot be read.
    """
    file = Path(path)
    form = file.suffix.lower()
    if form not in FORMS:
        raise ConfigError(
            f"{str(path)!r} has the unknown form {form!r}; rows are read from {', '.join(FORMS)}"
        )
    if form in (".csv", ".tsv"):
        return _separated_rows(file, encoding, check_header)
    if form == ".parquet":
        return _parquet_rows(file, check_header)
    return _json_rows(file, check_header)


def check_column(
    header: Sequence[str],
    column: str,
    path: Any,
    line: int | None = None,
    remedy: str = "name yours with --input-column and --output-column",
) -> None:
    """Check that a header, or the keys of one row, have a column once.

    Raises TaskDataError that names the columns that there are.
    """
    if column not in header:
        known = list_some(map(repr, header)) or "none"
        raise TaskDataError(
            f"no column {column!r}; there are {known}; {remedy}", path=path, line=line
        )
    if header.count(column) > 1:
        raise TaskDataError(
            f"column {column!r} is there {header.count(column)} times; rename all but one",
            path=path,
        )


def _separated_rows(
    file: Path, encoding: str, check_header: CheckHeader
) -> Iterator[tuple[int, Cells]]:
    text = _decode(file, encoding)
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    first_line = text.partition("\n")[0]
    if delimiter == "," and ";" in first_line and "," not in first_line:
        delimiter = ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        check_header(header, None)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise TaskDataError(
                    f"{len(cells)} cells, but the header has {len(header)}; put texts that hold "
                    f"{delimiter!r} in double quotes",
                    path=file,
                    line=reader.line_num,
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise TaskDataError(
            f"{error}; write a double quote inside a quoted text twice",
            path=file,
            line=reader.line_num,
        ) from None


def _decode(file: Path, encoding: str) -> str:
    try:
        content = read_bytes(file)
    except JsonError as error:
        raise error.in_task_file(file) from None
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TaskDataError(
            f"not {encoding.upper()} (byte {error.start}); save it as UTF-8, or name its encoding "
            "with --encoding, such as latin-1 or utf-16",
            path=file,
            line=line,
        ) from None
    except (LookupError, UnicodeError):
        raise ConfigError(
            f"{str(file)!r} cannot be read in the encoding {encoding!r}; name another, such as "
            "utf-8, latin-1 or utf-16"
        ) from None
    return text.removeprefix("\ufeff")


def _json_rows(file: Path, check_header: CheckHeader) -> Iterator[tuple[int, Cells]]:
    rows: Iterator[tuple[int, Any]]
    if file.suffix.lower() == ".jsonl":
        rows = read_json_lines(file)
    else:
        items = read_task_json(file)
        if not isinstance(items, list):
            raise TaskDataError(
                f"holds a {type(items).__name__}; a list of objects is expected", path=file
            )
        rows = iter(enumerate(items, 1))
    for line, row in rows:
        if not isinstance(row, dict):
            raise TaskDataError(
                f"a row is a {type(row).__name__}; expected an object", path=file, line=line
            )
        cells = with_first_exchange(row)
        check_header(list(cells), line)
        yield line, cells


def _parquet_rows(file: Path, check_header: CheckHeader) -> Iterator[tuple[int, Cells]]:
    names: list[str] = []

    def check(header: Sequence[str]) -> None:
        exchange = _COLUMN_ROLES if set(_TURNS) & set(header) else ()
        check_header([*header, *(column for column in exchange if column not in header)], None)
        names.extend(header)

    for line, values in enumerate(read_parquet(file, check), 1):
        yield line, with_first_exchange(dict(zip(names, values, strict=True)))


def read_parquet(
    path: Path, check_header: Callable[[Sequence[str]], None]
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row.

    check_header: called with the names of the columns before any row is read; raises what it likes

    Raises ConfigError when pyarrow is not installed, TaskDataError when the file cannot be read, a
    text is not UTF-8, or it unpacks to far more than its size, as made to fill the memory.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ConfigError(
            f"reading {str(path)!r} needs the package pyarrow; pip install 'text-to-lora[train]', or "
            "save the rows as JSON lines or CSV"
        ) from None
    if not path.is_file():
        raise TaskDataError("not a file; check the path", path=path)
    limit = min(max(_ALWAYS_READ, _MAX_RATIO * path.stat().st_size), 4 * MAX_JSON_BYTES)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_header(file.schema_arrow.names)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            _check_size(sum(group.total_byte_size for group in groups), limit, path)
            num_bytes = 0
            for batch in file.iter_batches(_BATCH_ROWS):
                num_bytes += batch.nbytes
                _check_size(num_bytes, limit, path)
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except UnicodeDecodeError as error:
        raise TaskDataError(f"a text is not UTF-8: {error.reason}", path=path) from error
    except TaskDataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = shorten(" ".join(str(error).split())).strip("'\"")
        raise TaskDataError(f"not a parquet file that can be read: {reason}", path=path) from error


def _check_size(num_bytes: int, limit: int, path: Path) -> None:
    if num_bytes > limit:
        raise TaskDataError(
            f"unpacks to more than {limit:,} bytes, far above its own size; save it as JSON lines",
            path=path,
        )


def with_first_exchange(cells: Cells) -> Cells:
    """Give a conversation the columns `instruction`, `input` and `output`; leave other rows alone."""
    name = next((name for name in _TURNS if isinstance(cells.get(name), list)), None)
    if name is None or {"output", "outputs"} & cells.keys():
        return cells
    texts: dict[str, Any] = {}
    for turn in cells[name]:
        if isinstance(turn, dict):
            role = str(turn.get("role", turn.get("from")))
            texts.setdefault(_ROLES.get(role, role), turn.get("content", turn.get("value")))
    exchange = {column: texts.get(role) for column, role in _COLUMN_ROLES.items()}
    return {**cells, **exchange}
