from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import TaskDataError
from text_to_lora.tasks.importing.tables import read_parquet


def read(file: Path) -> list[tuple[object, ...]]:
    return list(read_parquet(file, lambda header: None))


def write(file: Path, **columns: pyarrow.Array) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    return file


def test_rows_come_in_order_over_several_batches(tmp_path: Path) -> None:
    numbers = list(range(100))
    file = write(tmp_path / "a.parquet", n=pyarrow.array(numbers), t=pyarrow.array(["x"] * 100))
    assert read(file) == [(number, "x") for number in numbers]


def test_one_large_text_that_packs_well_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", t=pyarrow.array(["a" * 20_000_000]))
    assert file.stat().st_size < 80_000
    with pytest.raises(TaskDataError, match="unpacks to more than 8,388,608 bytes"):
        read(file)


def test_one_text_repeated_by_reference_is_refused_before_it_fills_the_memory(
    tmp_path: Path,
) -> None:
    text = pyarrow.array(["a" * 1_000_000])
    repeated = pyarrow.DictionaryArray.from_arrays([0] * 100_000, text)
    file = write(tmp_path / "a.parquet", t=repeated)
    with pytest.raises(TaskDataError, match=re.escape("far above its own size; save it as JSON")):
        read(file)


def test_what_is_no_parquet_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and\nsomething else PAR1")
    with pytest.raises(TaskDataError, match="not a parquet file that can be read") as refusal:
        read(file)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(TaskDataError, match="not a file; check the path"):
        read(tmp_path / "a.parquet")
