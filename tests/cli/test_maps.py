"""t2l map, neighbours and eval harm: files, tables, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NAMES = ("red", "green", "blue", "pink", "grey", "brown", "black", "white", "gold")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine tasks of as many groups and two categories."""
    root = tmp_path_factory.mktemp("data")
    (root / "own").mkdir()
    tasks = [
        {
            "id": name,
            "descriptions": [f"Say {name} and no more.", f"Always {name}."],
            "metric": {"kind": "exact_match"},
            "group": name,
            "category": ("even", "odd")[place % 2],
        }
        for place, name in enumerate(NAMES)
    ]
    rows = [
        {"task_id": name, "input": f"{name} {i}", "outputs": [name]}
        for name in NAMES
        for i in range(10)
    ]
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "splits.json").write_text(json.dumps({"train": NAMES, "dev_heldout": NAMES[:1]}))
    return root


def test_a_map_is_a_picture_and_its_coordinates(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map"
    options = ("--data", data, "-o", out, "-m", hypernet_folder)
    done = t2l("map", *options, "--method", "pca", "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    assert (out / "map.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((out / "map.json").read_text())
    assert len(result["coordinates"]["adapters"]["pca"]) == len(NAMES)
    assert done.out.splitlines()[0].endswith("map.png  9 descriptions")
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    few = t2l("map", *options, "--split", "dev_heldout")
    assert (few.code, few.err.count("\n")) == (2, 1)


def test_neighbours_are_printed_and_given_as_json(
    t2l: Any, data: Path, hypernet_folder: Path
) -> None:
    options = ("--data", data, "-m", hypernet_folder, "--count", 2)
    done = t2l("neighbours", "Say pink and no more.", *options)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "Say pink and no more."
    assert lines[2].startswith("    +1.00  pink  [odd]  Say pink")
    (entry,) = json.loads(t2l("neighbours", "Say pink and no more.", *options, "--json").out)
    assert entry["adapters"][0]["task"] == "pink"
    assert len(entry["descriptions"]) == 2


def test_harm_of_descriptions_and_of_folders_is_written(
    t2l: Any, data: Path, hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l("generate", "Shout", "-m", hypernet_folder, "-o", tmp_path / "shout")
    (tmp_path / "text.txt").write_text("The old dog sleeps by the door.\n")
    done = t2l(
        *("eval", "harm", "Say red", "--adapter", tmp_path / "shout", "-m", hypernet_folder),
        *("--data", data, "--text", tmp_path / "text.txt", "--rows", 1, "--tasks", 3),
        *("-o", tmp_path / "harm"),
    )
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "harm" / "harm.json").read_text())
    assert set(result["adapters"]) == {"Say red", str(tmp_path / "shout")}
    assert (tmp_path / "harm" / "harm.png").is_file()
    assert "| Say red |" in done.out
    none = t2l("eval", "harm", "--data", data, "-o", tmp_path / "no", "-m", hypernet_folder)
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "no description" in none.err
