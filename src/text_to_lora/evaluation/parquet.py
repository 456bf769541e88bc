"""Parquet files of rows of one schema with JSON metadata, written whole and read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.errors import ConfigError
from text_to_lora.files import JsonError, parse_json, write_file

if TYPE_CHECKING:
    import pyarrow

_METADATA_KEY = b"text_to_lora"


def write_rows(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    schema: pyarrow.Schema,
    metadata: Mapping[str, Any],
) -> None:
    """Write rows and JSON metadata, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(rows), schema=schema)
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    write_file(path, lambda file: pyarrow.parquet.write_table(table, file, compression="zstd"))


def read_rows(
    path: Path, schema: pyarrow.Schema, what: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read rows and their metadata.

    what: the rows are, in the plural, for messages

    Raises ConfigError when the file is not one of ours.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(
            f"{str(path)!r} is not a parquet file that can be read: {error}"
        ) from error
    metadata = (table.schema.metadata or {}).get(_METADATA_KEY)
    if metadata is None or not table.schema.equals(schema):
        raise ConfigError(
            f"{str(path)!r} has columns {', '.join(table.column_names)}; "
            f"it is not a file of {what}; delete it and evaluate again"
        )
    try:
        return table.to_pylist(), parse_json(metadata)
    except JsonError as error:
        raise ConfigError(f"{str(path)!r} holds metadata that {error}; evaluate again") from None
