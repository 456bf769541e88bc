"""Sample: one scored answer; a parquet file holds those of one condition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import KINDS
from text_to_lora.files import check_format, read_json, write_file

if TYPE_CHECKING:
    import pyarrow

FORMAT, VERSION = "text-to-lora evaluation", 2
"""Of run.json, which lies beside the folder of samples."""

_METADATA_KEY = b"text_to_lora"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of one task under one condition.

    adapter_text: description that made the adapter; "" without one
    prompt_text: description in the prompt; "" without one
    reference: first accepted output, the one that `nll` is of
    answer: greedy answer, "" where none was generated. Once longer than everything that could be
        right, a classification or exact-match answer is cut, unless whole ones were asked for.
    nll: mean negative log likelihood of the reference, nats per token, its end token included;
        None where there is no right answer to read, as for rules and for lm-eval's written answers
    tokens: tokens of the reference, its end token included
    score: by the task's metric, from 0 to 1; None where no answer was generated
    in_labels: whether the answer is one of the labels; None for tasks without labels
    label_score: whether the likeliest label is right; None where it was not asked for
    outputs: every accepted output, `reference` first
    cut: whether the prompt lost tokens to fit
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
    nll: float | None
    tokens: int
    score: float | None
    in_labels: bool | None
    label_score: float | None
    outputs: tuple[str, ...]
    cut: bool


@dataclass(frozen=True)
class Evaluation:
    """The folder of an evaluation, read.

    settings: of run.json, without the tasks
    samples: by condition in the order of KINDS; all derangements are the one condition "shuffled"
    facts: of each condition: what it is made of (about), the seconds that scoring took, and how many
        examples did not fit the prompts (shots_left_out)
    """

    settings: Mapping[str, Any]
    samples: Mapping[str, Sequence[Sample]]
    facts: Mapping[str, Mapping[str, Any]]


def read_evaluation(folder: Path) -> Evaluation:
    """Read all samples of an evaluation.

    Raises ConfigError when the folder holds no evaluation of this version, or no samples.
    """
    run = read_run(folder)
    samples: dict[str, list[Sample]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, condition in run["conditions"].items():
        path = sample_path(folder, name)
        if path.exists():
            label = "shuffled" if condition["kind"] == "shuffled" else name
            members, metadata = read_samples(path)
            samples.setdefault(label, []).extend(members)
            counts = {"about": condition["about"], "seconds": 0.0, "shots_left_out": 0}
            counts = facts.setdefault(label, counts)
            counts["seconds"] = round(counts["seconds"] + metadata["seconds"], 1)
            counts["shots_left_out"] += metadata["shots_left_out"]
    if not samples:
        raise ConfigError(f"{str(folder)!r} holds no samples; evaluate first")
    settings = {name: value for name, value in run["settings"].items() if name != "tasks"}
    return Evaluation(settings, {name: samples[name] for name in in_order(samples)}, facts)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of conditions in the order of KINDS."""
    places: dict[str, int] = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(names, key=lambda name: (places.get(name.split(".")[0], len(KINDS)), name))


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json of the folder of an evaluation.

    Raises ConfigError when there is none, or it is not of this version.
    """
    path = folder / "run.json"
    run = read_json(path)
    check_format(
        run,
        path,
        name=FORMAT,
        version=VERSION,
        error=ConfigError,
        when_earlier="evaluate again into another folder",  # samples of the first lack columns
    )
    return run


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
    rows = [Sample(**{**row, "outputs": tuple(row["outputs"])}) for row in table.to_pylist()]
    return rows, json.loads(metadata)


def _schema() -> pyarrow.Schema:
    import pyarrow

    types = {
        "str": pyarrow.string(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "tuple[str, ...]": pyarrow.list_(pyarrow.string()),
    }
    names = {field.name: str(field.type).removesuffix(" | None") for field in fields(Sample)}
    return pyarrow.schema([(name, types[of_field]) for name, of_field in names.items()])
