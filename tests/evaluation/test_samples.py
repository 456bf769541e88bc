"""Samples come back from parquet as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.samples import Sample, read_samples, sample_path, write_samples


def test_samples_and_metadata_round_trip(tmp_path: Path, sample: Callable[..., Sample]) -> None:
    samples = [
        sample("t", 5, 0.1 + 0.2, in_labels=True, answer="é\n"),
        sample("t", 6, float("inf"), score=None, label_score=1.0),
    ]
    path = sample_path(tmp_path, "matched")
    write_samples(path, samples, {"seconds": 1.5})
    assert read_samples(path) == (samples, {"seconds": 1.5})


def test_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("no")
    with pytest.raises(ConfigError, match=r"x\.parquet' is not a parquet file that can be read"):
        read_samples(path)


def test_foreign_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), path)
    with pytest.raises(ConfigError, match=r"x\.parquet' has columns question; it is not a file of"):
        read_samples(path)
