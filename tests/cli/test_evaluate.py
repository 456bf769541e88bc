from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four tasks of the split dev_heldout, each with other labels."""
    folder = tmp_path / "data" / "own"
    folder.mkdir(parents=True)
    names = ("one", "two", "three", "four")
    tasks = [
        {
            "id": name,
            "descriptions": [f"Say {name}.", f"Do {name}."],
            "metric": {"kind": "classification", "labels": [name, f"no {name}"]},
        }
        for name in names
    ]
    rows = [
        {"task_id": name, "input": string.ascii_lowercase[idx:], "outputs": [name]}
        for name in names
        for idx in range(10)
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder.parent / "splits.json").write_text(json.dumps({"dev_heldout": names}))
    return folder.parent


def test_held_out_tasks_are_reported_and_the_run_is_resumed(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    t2l("generate", "Anything", "-m", hypernet_folder, "-o", tmp_path / "multitask")
    options = ("--data", data, "-o", out, "-m", hypernet_folder, "--rows", 1)
    kinds = ("--conditions", "base,multitask,matched,shuffled")
    done = t2l("eval", "heldout", *options, *kinds, "--multitask", tmp_path / "multitask")
    assert done.code == 0
    assert done.out.strip() == (out / "report.md").read_text().strip()
    report = json.loads((out / "report.json").read_text())
    assert set(report["conditions"]) == {"base", "multitask", "matched", "shuffled"}
    assert report["conditions"]["matched"]["rows"] == 4
    assert report["settings"]["provenance"]["hypernet"]
    again = t2l("eval", "heldout", *options, "--conditions", "base,matched")
    assert again.err.count("finished before") == 2
    changed = t2l("eval", "heldout", *options, "--conditions", "base", "--dtype", "bfloat16")
    assert (changed.code, changed.err.count("\n")) == (2, 1)
    assert "holds an evaluation with another 'base'" in changed.err


def test_obedience_is_scored_and_written(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from text_to_lora.evaluation import obedience

    defaults = {"rules": obedience.RULES[:2], "sentences": ("a b",), "max_new_tokens": 2}
    monkeypatch.setattr(
        obedience.run_obedience,
        "__kwdefaults__",
        obedience.run_obedience.__kwdefaults__ | defaults,
    )
    done = t2l("eval", "obedience", "-o", tmp_path / "results", "-m", hypernet_folder)
    assert done.code == 0
    assert "| Answer in capitals. |" in done.out
    result = json.loads((tmp_path / "results" / "obedience.json").read_text())
    assert set(result["mean"]) == {"base", "in_prompt", "adapter"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "float8"), "'float8' is not one of 'float32', 'bfloat16', 'float16'"),
        (("--conditions", "oracle"), "unknown condition 'oracle'; choose among base, in_prompt"),
        (("--split", "gone"), "has no split 'gone'; choose one of dev_heldout"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    common = ("--data", data, "-o", tmp_path / "results", "-m", hypernet_folder)
    done = t2l("eval", "heldout", *common, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not (tmp_path / "results").exists()
