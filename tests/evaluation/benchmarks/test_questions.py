from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.questions import Question, read_questions, write_questions


def test_questions_and_metadata_come_back(tmp_path: Path) -> None:
    questions = [Question(3, "p", "t", "a", 0.5, '{"acc,none": 0.5}', True)]
    write_questions(tmp_path / "a" / "b.parquet", questions, {"seconds": 1.5})
    assert read_questions(tmp_path / "a" / "b.parquet") == (questions, {"seconds": 1.5})


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), file)
    with pytest.raises(ConfigError, match="has columns a; it is not a file of questions"):
        read_questions(file)
    file.write_text("no")
    with pytest.raises(ConfigError, match="not a parquet file"):
        read_questions(file)
