from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A definition of a task as lm-eval reads it, and descriptions."""
    folder = tmp_path_factory.mktemp("lm-eval")
    rows = [{"q": f"Is {i} even?", "a": i % 2} for i in range(4)]
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "even",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["yes", "no"],
        "doc_to_target": "a",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "even.yaml").write_text(yaml.safe_dump(task))
    (folder / "told.yml").write_text("even: Say whether a number is even.\n")
    return folder


def test_a_benchmark_is_scored_resumed_and_reported_anew(
    t2l: Any, hypernet_folder: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    command = (
        *("eval", "benchmarks", "even", "--include-path", folder, "-m", hypernet_folder),
        *("--descriptions", folder / "told.yml", "--conditions", "base,matched"),
        *("--rows", 2, "-o", out),
    )
    done = t2l(*command)
    assert done.code == 0, done.err
    assert done.out.strip() == (out / "report.md").read_text().strip()
    report = json.loads((out / "report.json").read_text())
    assert set(report["conditions"]) == {"base", "matched"}
    assert report["conditions"]["matched"]["rows"] == 2
    assert report["settings"]["provenance"]["lm_eval"]
    again = t2l(*command)
    assert "2/2 matched: finished before" in again.err
    assert t2l("eval", "report", out).out.strip() == done.out.strip()
    refused = t2l(*command, "--num-fewshot", 0)
    assert (refused.code, "another 'provenance'" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--conditions", "matchd"), "unknown condition 'matchd', nearest 'matched'"),
        (("--conditions", "oracle"), "condition 'oracle' needs a library"),
        (("--descriptions", "nowhere.yaml"), "cannot read the descriptions of 'nowhere.yaml'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    t2l: Any, hypernet_folder: Path, folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    descriptions = () if "--descriptions" in options else ("--descriptions", folder / "told.yml")
    command = ("eval", "benchmarks", "even", "--include-path", folder, "-m", hypernet_folder)
    done = t2l(*command, "-o", tmp_path / "results", *descriptions, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not (tmp_path / "results").exists()


def test_a_package_that_is_missing_is_one_line(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "text_to_lora.evaluation.lm_eval", raising=False)
    done = t2l("eval", "benchmarks", "piqa", "-m", hypernet_folder, "-o", tmp_path / "results")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "needs the package 'lm_eval'; pip install 'text-to-lora[eval,benchmarks]'" in done.err
