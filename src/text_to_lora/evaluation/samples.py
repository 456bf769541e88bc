"""Sample: one scored answer; a parquet file holds those of one condition."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.errors import ConfigError
from text_to_lora.files import write_file

if TYPE_CHECKING:
    import pyarrow

FORMAT, VERSION = "text-to-lora evaluation", 1
"""Of run.json, which lies beside the folder of samples."""

_METADATA_KEY = b"text_to_lora"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of one task under one condition.

    adapter_text: description that made the adapter; "" without one
    prompt_text: description in the prompt; "" without one
    reference: first accepted output, the one that `nll` is of
    answer: greedy answer, "" where none was generated. Once longer than everything that could be
        right, a classification or exact-match answer is cut.
    nll: mean negative log likelihood of the reference, nats per token, its end token included
    tokens: tokens of the reference, its end token included
    score: by the task's metric, from 0 to 1; None where no answer was generated
    in_labels: whether the answer is one of the labels; None for tasks without labels
    label_score: whether the likeliest label is right; None where it was not asked for
    """

    condition: str
    task: str
    group: str
    idx: int
    metric: str
    adapter_text: str
    prompt_text: str
    input: str
    reference: str
    answer: str
    nll: float
    tokens: int
    score: float | None
    in_labels: bool | None
    label_score: float | None


def sample_path(folder: Path, condition: str) -> Path:
    """Where the samples of a condition lie in the folder of an evaluation."""
    return folder / "samples" / f"{condition}.parquet"


def write_samples(path: Path, samples: Sequence[Sample], metadata: Mapping[str, Any]) -> None:
    """Write the samples of one condition and JSON metadata, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([asdict(sample) for sample in samples], schema=_schema())
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    write_file(path, lambda file: pyarrow.parquet.write_table(table, file, compression="zstd"))


def read_samples(path: Path) -> tuple[list[Sample], dict[str, Any]]:
    """Read the samples of one condition and their metadata.

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
    if metadata is None or not table.schema.equals(_schema()):
        raise ConfigError(
            f"{str(path)!r} has columns {', '.join(table.column_names)}; "
            "it is not a file of samples; delete it and evaluate again"
        )
    return [Sample(**row) for row in table.to_pylist()], json.loads(metadata)


def _schema() -> pyarrow.Schema:
    import pyarrow

    types = {
        "str": pyarrow.string(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "float | None": pyarrow.float64(),
        "bool | None": pyarrow.bool_(),
    }
    return pyarrow.schema([(field.name, types[str(field.type)]) for field in fields(Sample)])
