"""Question: one scored row of a public benchmark; a parquet file holds those of one condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.evaluation.parquet import read_rows, write_rows

if TYPE_CHECKING:
    import pyarrow

_METADATA_KEY: Final = b"text_to_lora_benchmark"


@dataclass(frozen=True, slots=True)
class Question:
    """What lm-eval logged of one row.

    doc_id: place of the row in the set
    prompt: the text before the answer; of several, as WinoGrande has, the first
    target: the right answer, as lm-eval gives it
    answer: the likeliest option, or the text that was generated, after lm-eval's filter
    value: the figure that stands in tables
    metrics: JSON of all figures, by "metric,filter"
    cut: whether a prompt lost tokens on its left to fit
    """

    doc_id: int
    prompt: str
    target: str
    answer: str
    value: float
    metrics: str
    cut: bool


def question_path(folder: Path, task: str, condition: str) -> Path:
    """Where the questions of a task under a condition lie."""
    return folder / "samples" / task / f"{condition}.parquet"


def write_questions(path: Path, questions: Sequence[Question], metadata: Mapping[str, Any]) -> None:
    """Write the questions of one condition and JSON metadata, whole or not at all."""
    write_rows(path, [asdict(question) for question in questions], _schema(), metadata)


def read_questions(path: Path) -> tuple[list[Question], dict[str, Any]]:
    """Read the questions of one condition and their metadata.

    Raises ConfigError when the file is not one of ours.
    """
    rows, metadata = read_rows(path, _schema(), "questions")
    return [Question(**row) for row in rows], metadata


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            ("doc_id", pyarrow.int64()),
            ("prompt", pyarrow.string()),
            ("target", pyarrow.string()),
            ("answer", pyarrow.string()),
            ("value", pyarrow.float64()),
            ("metrics", pyarrow.string()),
            ("cut", pyarrow.bool_()),
        ]
    )
