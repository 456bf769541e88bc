from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from text_to_lora.demo.show import demo_tasks

QUICK = ("--refine-seconds", 0)


def test_the_demo_shows_every_row_with_its_misses(t2l: Any, hypernet_folder: Path) -> None:
    done = t2l("demo", "-m", hypernet_folder, "--rows", 1, "--seed", 3, "--json", *QUICK)
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["seed"] == 3
    assert [row["description"] for row in facts["rows"]] == [
        task.description for task in demo_tasks()
    ]
    text = t2l("demo", "-m", hypernet_folder, "--rows", 1, "--seed", 3, *QUICK).out
    assert text.startswith("rows drawn with seed 3; the base sees the input alone\n")
    for row in facts["rows"]:
        assert row["input"] in text
        assert repr(row["expected"]) in text
        assert repr(row["adapted"]) in text
    misses = sum(row["adapted"] != row["expected"] for row in facts["rows"])
    assert text.count("MISS ") == misses > 0  # a random network is right by chance alone
    assert f"adapted {len(facts['rows']) - misses} of {len(facts['rows'])}" in text


def test_the_demo_ends_with_a_refinement_and_what_to_type(
    t2l: Any, idle_hypernet_folder: Path
) -> None:
    done = t2l("demo", "-m", idle_hypernet_folder, "--rows", 1, "--refine-seconds", 2)
    assert done.code == 0, done.err
    assert "the sentence alone and refined on 16 rows" in done.out
    assert "right: sentence " in done.out and ", refined " in done.out
    assert done.out.rstrip().endswith("t2l --help")
