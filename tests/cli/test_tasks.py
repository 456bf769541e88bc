"""t2l tasks: import with a preview, describe against a server on this machine, check in three forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat_server import serve
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.writing import write_tasks

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def task(name: str) -> Task:
        rows = [(f"{name} parcel {i} is here", "xy"[i % 2]) for i in range(20)]
        return Task.from_rows(name, rows, [f"Sort {name} parcels."])

    return write_tasks(map(task, ("red", "green")), tmp_path / "parcels")


DESCRIBE = ("tasks", "describe")


def test_describe_shows_tokens_and_cost_before_and_after(t2l: T2L, folder: Path) -> None:
    answer = json.dumps(
        {"descriptions": ["Pick x for it", "which letter, x or y?", "red parcel 1 is"]}
    )
    with serve(lambda request: answer) as server:
        options = ["-m", "m", "--api-base", server.url, "-n", 2, "--price", "1,2"]
        done = t2l(*DESCRIBE, folder, *options, "--encoder", "hash", "--dry-run")
        assert done.code == 0 and not server.requests
        assert "2 of 2 tasks to describe: 2 requests, about" in done.err
        assert "US dollars" in done.err
        done = t2l(*DESCRIBE, folder, *options, "--encoder", "hash")
        assert done.code == 0, done.err
        assert "used 2 requests, 200 tokens in, 20 out, 0.0002 US dollars" in done.err
        assert "red  2 descriptions\ngreen  2 descriptions\n" in done.out
        done = t2l(*DESCRIBE, folder, *options, "--encoder", "hash")
        assert "2 tasks had been described before" in done.out
    assert load_folder(folder)[1].descriptions[1:] == ("Pick x for it", "which letter, x or y?")


def test_describe_offline_says_that_its_texts_are_poorer(t2l: T2L, folder: Path) -> None:
    done = t2l(*DESCRIBE, folder, "--offline", "--json")
    assert done.code == 0, done.err
    assert "descriptions from templates differ in their frame alone" in done.err
    assert {item["written_by"] for item in json.loads(done.out)} == {"templates"}


def test_describe_refuses_what_it_cannot_do_in_one_line(
    t2l: T2L, folder: Path, tmp_path: Path
) -> None:
    with serve(lambda request: 401) as server:
        options = ["-m", "m", "--api-base", server.url, "--encoder", "hash"]
        done = t2l(*DESCRIBE, folder, *options)
    assert done.code == 2 and "error: the endpoint at 'http://127.0.0.1" in done.err
    for options, message in (
        ([], "name the model of an endpoint with --model, or pass --offline"),
        (["-m", "m", "--offline"], "name the model of an endpoint"),
        (["-m", "m", "--price", "x"], "price 'x'; write two numbers"),
    ):
        done = t2l(*DESCRIBE, folder, *options)
        assert done.code == 2 and message in done.err
    alone = write_tasks(load_folder(folder)[:1], tmp_path / "alone")
    assert "has one task; --verify needs others" in t2l(*DESCRIBE, alone, "-m", "m", "--verify").err


CHECK = ("tasks", "check")


def test_check_prints_a_page_and_writes_a_clean_copy(
    t2l: T2L, folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    held_out = write_tasks(
        [Task.from_rows("test", [("red parcel 3 is here", "x")], ["Say the letter of the thing."])],
        tmp_path / "test",
    )
    options = ["--set", f"base.name={base_folder}", "--against", held_out]
    done = t2l(
        *CHECK, folder, *options, "--html", tmp_path / "c.html", "--drop-overlap", tmp_path / "d"
    )
    assert done.code == 0, done.err
    assert "2 tasks in 2 groups, 40 rows, 2 descriptions" in done.out
    assert "1 tasks repeat evaluation sets, in 1 equal inputs" in done.out
    assert "2 of 2 tasks with 39 rows in" in done.err
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert len(load_folder(tmp_path / "d")[0].examples) == 19
    done = t2l(*CHECK, tmp_path / "d", *options, "--json")
    assert json.loads(done.out)["held_out"] == {}


def test_check_refuses_in_one_line(
    t2l: T2L, folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    base = ["--set", f"base.name={base_folder}"]
    (tmp_path / "page.html").touch()
    for arguments, message in (
        ([], "no tasks; name a task folder"),
        ([folder, folder], "two tasks are named 'red'"),
        ([tmp_path], "is no task folder and no collection of tasks"),
        ([folder, "--drop-overlap", tmp_path / "d"], "--drop-overlap needs --against"),
        ([folder, "--html", tmp_path / "page.html"], "exists already"),
        ([folder, "--against", folder, "--drop-overlap", tmp_path / "d"], "no row is left without"),
    ):
        done = t2l(*CHECK, *arguments, *base)
        assert done.code == 2 and message in done.err, done.err
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "d").exists()
