from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS, choose_benchmarks
from text_to_lora.evaluation.benchmarks.rows import read_rows, row_hashes

(PIQA,) = choose_benchmarks(["piqa"])[0].tasks
ROW = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_there_are_ten_rows_a_benchmark(benchmark: object, rows_dir: Path) -> None:
    assert sum(len(read_rows(rows_dir, t)[t.split]) for t in benchmark.tasks) == 10  # type: ignore[attr-defined]


def test_lists_lines_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "label": 1}]
    table = pyarrow.Table.from_pylist(rows)
    for suffix in ("json", "jsonl", "parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        file = folder / f"piqa.validation.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(table, file)
        else:
            file.write_text(
                json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
            )
        assert read_rows(folder, PIQA) == {"validation": rows}
        assert set(row_hashes(folder, PIQA)) == {"validation"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "piqa.validation.json: holds a dict; a list of rows is expected"),
        ("[", "piqa.validation.json:1: not JSON: Expecting value"),
        ("[]", "piqa.validation.json: holds no rows"),
        (
            json.dumps([ROW, {"goal": "g"}]),
            "piqa.validation.json:2: the row lacks sol1, sol2, label",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "piqa.validation.json").write_text(text)
    with pytest.raises(TaskDataError, match=re.escape(message)):
        read_rows(tmp_path, PIQA)


def test_a_missing_split_says_which_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "piqa.train.json").write_text(json.dumps([ROW]))
    with pytest.raises(
        ConfigError, match=r"no rows of 'piqa'; put piqa.validation.json, .*columns: goal"
    ):
        read_rows(tmp_path, PIQA)
