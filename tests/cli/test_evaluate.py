from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.evaluation.conditions import KINDS
from text_to_lora.generate import TextToLora
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library


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


def test_tasks_are_scored_and_reported_and_the_run_is_resumed(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    t2l("generate", "Anything", "-m", hypernet_folder, "-o", tmp_path / "multitask")
    options = ("--tasks", data, "-o", out, "-m", hypernet_folder, "--rows", 1)
    kinds = ("--conditions", "base,multitask,matched,shuffled")
    done = t2l("eval", "suite", *options, *kinds, "--multitask", tmp_path / "multitask")
    assert done.code == 0
    assert done.out.strip() == (out / "report.md").read_text().strip()
    report = json.loads((out / "report.json").read_text())
    assert set(report["conditions"]) == {"base", "multitask", "matched", "shuffled"}
    assert report["conditions"]["matched"]["rows"] == 4
    assert report["settings"]["provenance"]["hypernet"]
    assert "matched: 4/4 rows, " in done.err and " rows/s, 0 s left" in done.err
    again = t2l("eval", "suite", *options, "--conditions", "base,matched")
    assert again.err.count("finished before") == 2
    changed = t2l("eval", "suite", *options, "--conditions", "base", "--dtype", "bfloat16")
    assert (changed.code, changed.err.count("\n")) == (2, 1)
    assert "holds an evaluation with another 'base'" in changed.err


def test_every_condition_is_reached_by_its_flag(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    hypernet = TextToLora.from_pretrained(str(hypernet_folder))
    topics = ("red", "blue", "green")
    library = AdapterLibrary(
        hypernet.generate(topics).weights,
        [LibraryEntry(topic, (f"Say {topic}.",)) for topic in topics],
    )
    save_library(library, tmp_path / "library")
    entries = [LibraryEntry(name) for name in ("one", "three")]
    save_library(
        AdapterLibrary(hypernet.generate(["x", "y"]).weights, entries), tmp_path / "oracle"
    )
    hypernet.generate(["z"]).save(tmp_path / "multitask")
    out = tmp_path / "results"
    done = t2l(
        *("eval", "suite", "--tasks", data, "-o", out, "-m", hypernet_folder, "--rows", 1),
        *("--library", tmp_path / "library", "--oracle", tmp_path / "oracle", "--shots", 2),
        *("--multitask", tmp_path / "multitask", "--paraphrases", 1, "--max-new-tokens", 2),
        *("--multitask-in-prompt", tmp_path / "multitask"),
    )
    assert done.code == 0, done.err
    run = json.loads((out / "run.json").read_text())
    assert {noted["kind"] for noted in run["conditions"].values()} == set(KINDS)
    assert run["conditions"]["oracle"]["tasks"] == 2
    assert run["conditions"]["icl"]["about"]["shots"] == 2
    assert run["conditions"]["hyperdecoder"]["about"]["trained_on"] == "unknown"
    assert all((out / "samples" / f"{name}.parquet").exists() for name in run["conditions"])


def test_a_task_folder_of_ones_own_is_scored_by_its_own_splits(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    options = ("-m", hypernet_folder, "--conditions", "base", "--max-new-tokens", 1, "--rows", 0)
    done = t2l("eval", "suite", "--tasks", data / "own", "-o", tmp_path / "a", *options)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "a" / "run.json").read_text())["settings"]["tasks"]
    assert [noted["rows"] for noted in rows.values()] == [[9]] * 4
    gone = ("--tasks", data / "own", "-o", tmp_path / "b", "--split", "gone")
    done = t2l("eval", "suite", *gone, *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "has no task of split 'gone'; choose one of train" in done.err


def test_obedience_is_scored_and_written(
    t2l: Any, hypernet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from text_to_lora.evaluation import obedience

    few = {name: rules[:2] for name, rules in obedience.RULE_SETS.items()}
    defaults = {"sets": few, "max_new_tokens": 2}
    function = obedience.evaluate_obedience
    monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | defaults)
    monkeypatch.setattr(obedience, "SENTENCES", ("a b",))
    command = ("eval", "obedience", "-o", tmp_path / "results", "-m", hypernet_folder)
    done = t2l(*command)
    assert done.code == 0
    assert "| Answer in capitals. |" in done.out
    for name in ("everyday", "new_words"):
        report = json.loads((tmp_path / "results" / name / "report.json").read_text())
        assert set(report["conditions"]) == {"base", "in_prompt", "matched"}
    again = t2l(*command)
    assert again.out == done.out
    assert again.err.count("finished before") == 6
    other = t2l(*command, "--dtype", "bfloat16")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "holds an evaluation with another 'base'" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "float8"), "'float8' is not one of 'float32', 'bfloat16', 'float16'"),
        (("--conditions", "orakle"), "unknown condition 'orakle', nearest 'oracle'; choose among"),
        (("--conditions", "base,oracle"), "condition 'oracle' needs a library of the tasks' own"),
        (("--conditions", "arrow"), "needs a library of adapters; give --library"),
        (("--library", "gone"), "'gone' is not a folder; give the library's folder"),
        (("--hyperdecoder", "gone"), "unknown hypernetwork 'gone'"),
        (("--multitask", "gone"), "unknown adapter 'gone'"),
        (("--shots", "0"), "'--shots': Input should be greater than or equal to 1"),
        (("--split", "gone"), "has no split 'gone'; choose one of dev_heldout"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    common = ("--tasks", data, "-o", tmp_path / "results", "-m", hypernet_folder)
    done = t2l("eval", "suite", *common, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not (tmp_path / "results").exists()
