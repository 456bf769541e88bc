"""Rows of a Parquet file, read in small batches and only so far as their texts stay in bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, TaskDataError, shorten
from text_to_lora.files import MAX_JSON_BYTES

_BATCH_ROWS: Final = 8  # so that even texts of a megabyte each are noticed early
_ALWAYS_READ: Final = 1 << 23  # bytes
_MAX_RATIO: Final = 100  # of unpacked bytes to those of the file; texts reach about 20


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
