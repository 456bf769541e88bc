"""The refinement of the demonstration and the example script, at tiny size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from text_to_lora.demo.refine import refine_task, show_refinement
from text_to_lora.generate import TextToLora

EXAMPLE = Path(__file__).parents[2] / "examples" / "refine.py"


def test_the_task_has_sixteen_rows_and_others_to_show() -> None:
    description, rows, shown = refine_task()
    assert len(rows) == 16 and len(shown) == 6
    labels = {label for _, label in rows}
    assert labels == {label for _, label in shown}
    assert not any(label in description for label in labels)  # no sentence tells them
    assert not {text for text, _ in rows} & {text for text, _ in shown}


def test_answers_before_and_after_come_with_the_record(idle_hypernet_folder: Path) -> None:
    t2l = TextToLora.from_pretrained(idle_hypernet_folder)
    result = show_refinement(t2l, seconds=None, steps=1)
    assert len(result.rows) == len(result.before) == len(result.after) == 6
    assert result.record["rows"] == 16 and result.record["steps_tried"] == 1


def test_the_example_runs_as_it_stands(
    idle_hypernet_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["refine.py", "--model", str(idle_hypernet_folder), "--seconds", "0.5"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["base", "sentence", "refined", "chosen:"]
    assert "adapter_model.safetensors" in lines[4]
    assert lines[5].startswith("The fan does not turn any more. -> ")
