"""A run says what speaks against its tasks, and after ten steps what it will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from text_to_lora.training.config import RunConfig
from text_to_lora.training.descent import estimate_line
from text_to_lora.training.loop import Learner, Loop, StepFigures
from text_to_lora.training.sft import train_sft

CPU = torch.device("cpu")


def test_a_run_reports_findings_first_and_an_estimate_after_ten_steps(
    settings: Callable[..., RunConfig], tmp_path: Path
) -> None:
    lines: list[str] = []
    config = settings(run={"steps": 12, "eval_every": 50}, data={"eval_rows": 0})
    train_sft(config, output_dir=tmp_path / "run", report=lines.append)
    findings = [place for place, line in enumerate(lines) if line.startswith("check: ")]
    steps = [place for place, line in enumerate(lines) if line.startswith("step ")]
    measured = [
        place for place, line in enumerate(lines) if line.startswith("measured over 10 steps")
    ]
    assert findings and len(measured) == 1 and max(findings) < min(steps)
    assert "4 of 4 tasks have fewer than 50 rows" in "\n".join(lines)
    assert "about 0 minutes for the 1 steps that are left" in lines[measured[0]]
    assert "GB of memory so far" in lines[measured[0]]


def test_the_first_step_and_a_validation_are_not_in_the_estimate() -> None:
    seconds = 0.0

    class Sleeper(Learner):
        unit, num_steps = "tokens", 1000

        def is_over(self, step: int) -> bool:
            return step == 20

        def step(self, step: int) -> StepFigures:
            nonlocal seconds
            seconds += 100.0 if step == 0 else 3.0
            return StepFigures(loss=1.0, units=1)

        def validate(self, step: int) -> dict[str, float]:
            nonlocal seconds
            seconds += 500.0
            return {}

        def estimate(self, seconds: float, steps_left: int) -> str:
            return estimate_line(seconds, steps_left, CPU)

        def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
            return {}, {}

        def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
            raise AssertionError

    lines: list[str] = []
    Loop(Sleeper(), report=lines.append, clock=lambda: seconds).run()
    (line,) = lines
    assert line.startswith("measured over 10 steps: 3.00 s a step, so about 49 minutes for the 989")


def test_long_runs_are_told_in_hours() -> None:
    assert "about 20.0 hours for the 72,000 steps" in estimate_line(1.0, 72_000, CPU)
