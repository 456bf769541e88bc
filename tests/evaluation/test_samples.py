"""Samples come back from parquet as they were."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from made_up_samples import make_sample, write_run
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.samples import (
    read_evaluation,
    read_run,
    read_samples,
    sample_path,
    write_samples,
)
from text_to_lora.files import read_json, write_json


def test_samples_and_metadata_round_trip(tmp_path: Path) -> None:
    samples = [
        make_sample("t", 5, 0.1 + 0.2, in_labels=True, answer="é\n", outputs=("y", "ü"), cut=True),
        make_sample("t", 6, float("inf"), score=None, label_score=1.0),
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


def test_derangements_are_one_condition(tmp_path: Path) -> None:
    rows = {f"shuffled.{place}": [make_sample("t", 5, float(place))] for place in (1, 2)}
    evaluation = read_evaluation(write_run(tmp_path, {**rows, "base": [make_sample("t", 5, 0.0)]}))
    assert list(evaluation.samples) == ["base", "shuffled"]
    assert [s.nll for s in evaluation.samples["shuffled"]] == [1.0, 2.0]
    seconds = {name: facts["seconds"] for name, facts in evaluation.facts.items()}
    assert seconds == {"base": 1.5, "shuffled": 3.0}
    assert "tasks" not in evaluation.settings


def test_an_evaluation_of_version_1_is_told_apart(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {"base": [make_sample("t", 5, 0.0)]})
    write_json(folder / "run.json", {**read_json(folder / "run.json"), "version": 1})
    with pytest.raises(
        ConfigError, match=r"version 1.*reads 2; evaluate again into another folder"
    ):
        read_run(folder)
