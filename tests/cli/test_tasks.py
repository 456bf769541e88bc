"""t2l tasks: import with a preview, describe against a server on this machine, check in three forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.tasks.folder import load_folder

T2L = Callable[..., Any]
IMPORT = ("tasks", "import")


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    rows = "".join(f'"mail {i}, with ""news""",{i % 2}\r\n' for i in range(30))
    file = tmp_path / "mails.csv"
    file.write_bytes(f"\ufefftext,spam\r\n{rows},1\r\nnew,NaN\r\n".encode())
    return file


def test_import_shows_rows_and_writes_nothing_on_a_dry_run(
    t2l: T2L, mails: Path, tmp_path: Path
) -> None:
    options = ["--input", "text", "--output", "spam", "--labels", "no,yes"]
    done = t2l(*IMPORT, mails, "-o", tmp_path / "mine", *options, "--dry-run")
    assert done.code == 0, done.err
    assert "mails  30 rows, classification (no, yes), group mails" in done.out
    assert done.out.count("' -> '") == 5
    assert f"left out: 1 row with no answer (empty, null or NaN), first {mails}:33" in done.out
    assert not (tmp_path / "mine").exists()
    done = t2l(*IMPORT, mails, "-o", tmp_path / "mine", *options, "--json")
    assert json.loads(done.out)["tasks"][0]["rows"] == 30
    (task,) = load_folder(tmp_path / "mine")
    assert task.examples[1].input == 'mail 1, with "news"'


def test_import_adds_to_its_own_folder_and_to_no_other(
    t2l: T2L, mails: Path, tmp_path: Path
) -> None:
    options = ["-o", tmp_path / "mine", "--input", "text", "--output", "spam"]
    assert t2l(*IMPORT, mails, *options).code == 0
    assert "exists already; pass --overwrite" in t2l(*IMPORT, mails, *options).err
    assert (
        "has a task 'mails' already; name the new one" in t2l(*IMPORT, mails, *options, "--add").err
    )
    assert t2l(*IMPORT, mails, *options, "--add", "--name", "second").code == 0
    assert [task.name for task in load_folder(tmp_path / "mine")] == ["mails", "second"]
    (tmp_path / "mine" / "notes.txt").write_text("by hand")
    done = t2l(*IMPORT, mails, *options, "--add", "--name", "third")
    assert done.code == 2 and "holds 'notes.txt', which this program did not write" in done.err


def test_import_names_the_file_and_the_row(t2l: T2L, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text('input,output\na,b\n"x "y" z",c\n')
    done = t2l(*IMPORT, tmp_path / "bad.csv", "-o", tmp_path / "out")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "bad.csv:3: ',' expected after" in done.err
    done = t2l(*IMPORT, "a.csv", "b.csv", "-o", tmp_path / "out", "--name", "x")
    assert "--name is 'x' for 2 sources" in done.err
    done = t2l(*IMPORT, tmp_path / "bad.csv", "-o", tmp_path / "out", "--metric", "bleu")
    assert "error" in done.err and done.code == 2
