"""The page of costs says what the committed JSON says."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from text_to_lora.analysis import cost_measure

ROOT = Path(__file__).parents[2]
JSON = ROOT / "benchmarks" / "results" / "judge" / "cost.json"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "judge")
    return __import__("cost")


@pytest.fixture
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(JSON.read_text(encoding="utf-8"))
    return found


def test_the_page_is_what_the_script_writes(script: ModuleType, result: Mapping[str, Any]) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(result)


def test_a_figure_of_the_json_stands_on_the_page(
    script: ModuleType, result: dict[str, Any]
) -> None:
    changed = copy.deepcopy(result)
    changed["cells"]["generate-L-1"]["seconds"] = 1234.0
    assert "| 1.23e+03 |" in script.page(changed)
    assert "| 1.23e+03 |" not in script.page(result)


def test_the_formulas_cell_is_what_the_code_computes(
    script: ModuleType, result: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = result["cells"]["formula"]["count"]["counted"]  # held by a test of its own
    monkeypatch.setattr(script, "check_count", lambda *arguments: counted)
    made = json.loads(json.dumps(script.formula()))
    assert made.items() <= result["cells"]["formula"].items()


def test_cells_are_made_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def measure(setting: Any, part: str, count: int, work: Path) -> dict[str, Any]:
        calls.append(f"{part}-{count}")
        return {"seconds": 1.0}

    monkeypatch.setattr(cost_measure, "measure", measure)
    options = argparse.Namespace(
        cells=["merge-2", "disk-2"], counts=[2], device="cpu", threads=1, work=tmp_path,
        out=tmp_path / "cost.json",
    )  # fmt: skip
    script.make_cells(options)
    assert calls == ["merge-2", "write-2", "load-library-2", "load-folders-2"]
    options.cells = ["merge-2", "resident-2"]
    script.make_cells(options)
    assert calls[4:] == ["resident-2"]
    assert list(tmp_path.iterdir()) == [tmp_path / "cost.json"]
    options.cells = ["merge-3"]
    with pytest.raises(SystemExit, match=r"no cells merge-3; there are formula, encode-2"):
        script.make_cells(options)
