"""t2l refine: rows in any form, task folders, Ctrl-C, and bad input in one line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.training.joint import JointTrainer

TEXT = "Say red."
FAST = ("--steps", 3, "--rate", 0.02)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("input,output\n" + "".join(f"input {i},red\n" for i in range(9)))
    return file


def test_rows_give_an_adapter_and_its_figures(
    t2l: Any, idle_hypernet_folder: Path, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = t2l("refine", TEXT, "--rows", rows, "-o", out, "-m", idle_hypernet_folder, *FAST)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{out}  ") and lines[0].endswith(f" s  {TEXT}")
    assert lines[1] == "  judged on 2 of 9 rows (a share kept out)"
    labels = [line[2:16].strip() for line in lines[2:5]]
    assert labels == ["base alone", "sentence alone", "refined"]
    assert all("loss" in line and "exact answers" in line for line in lines[2:5])
    assert "more time" in lines[5]
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.csv"]


def test_json_holds_the_record(
    t2l: Any, idle_hypernet_folder: Path, rows: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named.jsonl"
    named.write_text("".join(f'{{"text": "input {i}", "tag": "red"}}\n' for i in range(9)))
    options = ("-m", idle_hypernet_folder, *FAST, "--json")
    first = t2l("refine", TEXT, "--rows", rows, "-o", tmp_path / "one", *options)
    columns = ("--input-column", "text", "--output-column", "tag")
    other = t2l("refine", TEXT, "--rows", named, "-o", tmp_path / "two", *columns, *options)
    (one,), (two,) = json.loads(first.out), json.loads(other.out)
    assert (one["path"], two["path"]) == (str(tmp_path / "one"), str(tmp_path / "two"))
    assert one["refinement"]["rows_sha256"] == two["refinement"]["rows_sha256"]
    assert one["refinement"]["by_step"] == two["refinement"]["by_step"]


def test_the_tasks_of_a_folder_are_trained_together(
    t2l: Any, idle_hypernet_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    metric = {"kind": "exact_match"}
    tasks = [
        {"id": name, "definition": f"Say {name}.", "metric": metric} for name in ("up", "down")
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    lines = [
        {"task_id": name, "input": f"input {i}", "outputs": [name]}
        for name in ("up", "down")
        for i in range(8)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    done = t2l("refine", "--tasks", folder, "-o", out, "-m", idle_hypernet_folder, *FAST)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["1-say-up", "2-say-down"]
    assert done.out.count("judged on 2 of 8 rows") == 2


def test_ctrl_c_says_where_the_work_is_and_the_command_goes_on(
    t2l: Any,
    idle_hypernet_folder: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = JointTrainer.step

    def interrupted(self: JointTrainer, present: Sequence[int]) -> tuple[float, int]:
        if self.steps[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, present)

    command = ("refine", TEXT, "--rows", rows, "-o", tmp_path / "out", "-m", idle_hypernet_folder)
    monkeypatch.setattr(JointTrainer, "step", interrupted)
    stopped = t2l(*command, *FAST)
    state = tmp_path / "out.unfinished"
    assert stopped.code == 130
    assert f"the best state so far is in '{state}'; the same command goes on" in stopped.err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(JointTrainer, "step", step)
    other_rate = t2l(*command, "--steps", 3, "--rate", 0.01)
    assert (other_rate.code, other_rate.err.count("\n")) == (2, 1)
    assert "settings.rate: 0.02 -> 0.01" in other_rate.err and "--fresh" in other_rate.err
    done = t2l(*command, *FAST)
    assert done.code == 0 and not state.exists()
    assert "of 3 steps" in done.out
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "ROWS"), "no description; give DESCRIPTION and --rows FILE, or --tasks FOLDER"),
        ((TEXT,), "no rows; give DESCRIPTION and --rows FILE, or --tasks FOLDER"),
        ((TEXT, "--tasks", "x"), "--tasks has descriptions and rows of its own; leave out"),
        ((" ", "--rows", "ROWS"), "description 1 of 1 is empty"),
        ((TEXT, "--rows", "rows.ods"), "has the unknown form '.ods'"),
        ((TEXT, "--rows", "ROWS", "--seconds", "0"), "seconds is 0.0; a positive number"),
        ((TEXT, "--rows", "ROWS", "--steps", "0"), "steps is 0; 1 or more are needed"),
        (
            (TEXT, "--rows", "ROWS", "--keep-out", "1.5"),
            "keep_out is 1.5; it should be less than 1",
        ),
        ((TEXT, "--rows", "ROWS", "--pull", "-1"), "pull is -1.0; it should be greater than or"),
        (
            (TEXT, "--rows", "ROWS", "--max-answer-tokens", "2"),
            "('red'); 2 are the limit; shorten the",
        ),
        ((TEXT, "--rows", "ROWS", "--input-column", "x"), "no column 'x'; there are 'input',"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    t2l: Any,
    arguments: tuple[str, ...],
    message: str,
    idle_hypernet_folder: Path,
    rows: Path,
    tmp_path: Path,
) -> None:
    given = [rows if argument == "ROWS" else argument for argument in arguments]
    done = t2l("refine", *given, "-o", tmp_path / "out", "-m", idle_hypernet_folder)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert message in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
