"""A run says what speaks against its tasks, and after ten steps what it will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from text_to_lora.training import estimate
from text_to_lora.training.config import RunConfig
from text_to_lora.training.estimate import StepEstimate, estimate_line
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
    assert "6 of 6 tasks have fewer than 50 rows" in "\n".join(lines)
    assert "about 0 minutes for the 1 steps that are left" in lines[measured[0]]
    assert "GB of memory so far" in lines[measured[0]]


def test_the_first_step_and_a_validation_are_not_in_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 100.0, 130.0])
    monkeypatch.setattr(estimate.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    callback = StepEstimate(1000, lines.append)
    arguments = SimpleNamespace(device=CPU)
    for step in range(5, 30):
        state = SimpleNamespace(global_step=step)
        callback.on_step_end(arguments, state, None)
        if step == 7:
            callback.on_evaluate(arguments, state, None)
    (line,) = lines  # 30 s from step 8 to step 18
    assert line.startswith("measured over 10 steps: 3.00 s a step, so about 49 minutes for the 982")


def test_long_runs_are_told_in_hours() -> None:
    assert "about 20.0 hours for the 72,000 steps" in estimate_line(1.0, 72_000, CPU)
