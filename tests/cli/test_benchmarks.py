from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

ROWS = Path(__file__).parents[1] / "evaluation" / "benchmarks" / "rows"


def test_a_benchmark_is_scored_resumed_and_put_beside_the_paper(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    options = ("--benchmarks", "arc_easy", "--limit", 2, "--rows-dir", ROWS, "-m", hypernet_folder)
    kinds = ("--conditions", "base,matched", "--num-descriptions", 1)
    command = ("eval", "benchmarks", *options, *kinds, "-o", out)
    done = t2l(*command)
    assert done.code == 0
    assert done.out.strip() == (out / "benchmarks.md").read_text().strip()
    results = json.loads((out / "benchmarks.json").read_text())
    assert set(results["benchmarks"]["arc_easy"]["conditions"]) == {"base", "matched"}
    assert results["settings"]["provenance"]["hypernet"]
    again = t2l(*command, "--compare-paper")
    assert "arc_easy: 2 of 2 finished before" in again.err
    assert "| Base (base) |" in again.out and "/ 77.8" in again.out
    refused = t2l(*command, "--dtype", "bfloat16")
    assert (refused.code, "another 'provenance'" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--benchmarks", "glue"), "unknown benchmark 'glue'; choose among arc_challenge"),
        ((), "humaneval and mbpp run programs that the model wrote; pass --allow-code-execution"),
        (("--benchmarks", "piqa", "--conditions", "oracle"), "unknown condition 'oracle'"),
        (("--benchmarks", "piqa", "--paper-table", "table9"), "unknown table 'table9'"),
        (("--benchmarks", "piqa", "--rows-dir", "nowhere"), "'nowhere' has no rows of 'piqa'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    done = t2l("eval", "benchmarks", "-o", tmp_path / "results", "-m", hypernet_folder, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not (tmp_path / "results").exists()


def test_a_package_that_is_missing_is_one_line(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "text_to_lora.evaluation.benchmarks.harness", raising=False)
    options = ("--benchmarks", "piqa", "-m", hypernet_folder, "-o", tmp_path / "results")
    done = t2l("eval", "benchmarks", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "need the package 'lm_eval'; pip install 'text-to-lora[benchmarks]'" in done.err
