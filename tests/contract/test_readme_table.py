"""The results in README.md are those of the committed JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import readme_table

    return readme_table


def _interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    machine = {"cpu": "some CPU", "cores": 2}
    files: dict[str, Any] = {
        "heldout/report.json": {
            "conditions": {
                "matched": {"nll": _interval(3.5), "score": _interval(0.25), "seconds": 90.0}
            },
            "differences": {"matched - shuffled": {"nll": _interval(-0.125)}},
            "gap_closed": {"in_prompt": {"matched": {"nll": {"share": _interval(0.5)}}}},
            "tasks": {"a": {"group": "g"}, "b": {"group": "g"}},
            "settings": {"rows_per_task": 7},
        },
        "obedience.json": {"mean": {"base": 0.05, "adapter": 0.4}, "seconds": 120},
        "facts.json": {"machine": "a machine"},
        "cold_generate.json": {
            "command": "python benchmarks/cold_generate.py",
            "machine": machine,
            "seconds": 61,
            "median_s": {"t2l_generate": 2.5, "encode_once": 5.0},
            "ratio": 0.5,
            "target_ratio": 1.25,
        },
        "generation.json": {
            "command": "python benchmarks/generation.py",
            "machine": machine,
            "time": {"cpu": {"median_s": {"float32": {"1": 0.25, "64": 2.0}}}},
            "peak_memory_mib": {"cpu": {"float32": {"1": {"peak": 470.2}, "64": {"peak": 1312.4}}}},
            "logits": {"bf16_change": 0.003},
            "writing": {"float32": {"s_per_adapter": 0.031}},
            "targets": {
                "fraction_of_fp32_rate_at_64": {"to_reach": 0.6, "found": 0.66},
                "bf16_at_64_over_fp32_at_1": {"to_reach": 5.0, "found": 5.5},
            },
        },
        "other.json": {
            "command": "python benchmarks/other.py",
            "machine": machine | {"device": "a GPU"},
            "summary": [{"what": "64 adapters", "result": "1.5 s", "target": "60%"}],
        },
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_every_figure_stands_in_the_block(script: ModuleType, results: Path) -> None:
    text = script.block(results)
    for figure in (
        "on 2 tasks of 1 source groups",
        "| matched | 3.500 [3.490, 3.510] | 0.250 [0.240, 0.260] |",
        "| matched - shuffled | -0.125 [-0.135, -0.115] |",
        "closes 50% of the gap",
        "base 5%, adapter 40%.",
        "| a machine | 2 |",  # 90 s of held-out tasks
        "2.50 s, 0.50 × loading the encoder and encoding once (5.00 s) | 1.25 × |",
        "--hyperdecoder HYPERDECODER --rows 7 -o results` |",
        "| 2 cores of some CPU | 2 |",  # 61 seconds: a begun minute counts
        "| 64 adapters | 1.5 s | 60% | `python benchmarks/other.py` | a GPU, 2 cores of some CPU",
        "fp32 | 66% of the machine's fp32 product rate | 60% | `python benchmarks/generation.py` |",
        "| the same in bfloat16 | 5.50 × the rate of fp32 one at a time; logits change by 0.3% | 5 × |",
        "| 1, 64 adapters, cpu, float32 | 0.25, 2.00 s, peak 470, 1312 MiB |  |",
        "| writing one of them, float32 | 0.031 s |",
    ):
        assert figure in text


def test_the_readme_holds_the_committed_results(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.BLOCK.findall(readme) == [script.block()]
