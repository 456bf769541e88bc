from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json, write_file, write_folder, write_json


@pytest.fixture(params=["at once", "plain"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename by Linux's renameat2, and as where there is no such call."""
    if request.param == "plain":
        monkeypatch.setattr("text_to_lora.files.whole._rename_at_once", lambda *_, exchange: False)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with write_folder(tmp_path / "new" / "out") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new" / "out" / "a.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [ZeroDivisionError(), KeyboardInterrupt()])
def test_an_error_leaves_nothing(failure: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(failure)), write_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("a")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_overwriting_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "adapter_config.json").touch()
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "out", overwrite=True):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["adapter_config.json"]
    with write_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("renaming")
def test_of_two_jobs_for_one_new_folder_the_later_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(ConfigError, match=r"output '.*out' exists already: another job made it"),
        write_folder(out) as later,
    ):
        (later / "file").write_text("later")
        with write_folder(out) as first:
            (first / "file").write_text("first")
    assert (out / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_job_that_wrote_nothing_was_first_all_the_same(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="exists already: another job made it"),
        write_folder(tmp_path / "out") as later,
    ):
        (later / "file").touch()
        with write_folder(tmp_path / "out"):
            pass
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("renaming")
def test_a_folder_is_exchanged_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("{}", "[]"):
        with write_folder(out, overwrite=True) as folder:
            (folder / "adapter_config.json").write_text(text)
    assert (out / "adapter_config.json").read_text() == "[]"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_put_into_the_folder_in_the_meantime_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with write_folder(out) as folder:
        (folder / "adapter_config.json").touch()
    with (
        pytest.raises(ConfigError, match=r"holds 'thesis\.tex', which this program did not write"),
        write_folder(out, overwrite=True) as folder,
    ):
        (out / "thesis.tex").touch()
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "thesis.tex"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_replaced_can_be_checked(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ConfigError("changed in the meantime")

    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ConfigError, match="changed in the meantime"),
        write_folder(tmp_path / "out", overwrite=True, check_replaced=refuse) as folder,
    ):
        (folder / "file").touch()
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with write_folder(tmp_path / "link", overwrite=True) as folder:
        (folder / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.usefixtures("renaming")
def test_of_two_jobs_for_one_new_file_the_later_fails(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def write(temporary: Path) -> None:
        write_json(file, {})
        temporary.touch()

    with pytest.raises(ConfigError, match=r"output file '.*file' exists already; choose"):
        write_file(file, write, overwrite=False)
    assert read_json(file) == {}
    write_json(tmp_path / "new", {"a": 1}, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "new"]


def test_what_exists_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"output folder '{tmp_path}' exists already; pass"):
        write_folder(tmp_path).__enter__()
    for overwrite in (False, True):
        with pytest.raises(
            ConfigError, match=r"output file .*file' exists already; choose another"
        ):
            write_folder(tmp_path / "file", overwrite=overwrite).__enter__()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"cannot write .*file/out': (Not a directory|File exists)"
    ):
        write_folder(tmp_path / "file" / "out").__enter__()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ConfigError, match=r"no space left on the disk of '.*x\.json'; free some"):
        write_file(tmp_path / "x.json", fail)
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


FOLDER_WRITER = """
import sys, time
from text_to_lora.files import write_folder
with write_folder(sys.argv[1]) as folder:
    (folder / "part").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
FILE_WRITER = """
import sys, time
from text_to_lora.files import write_file
def write(file):
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
write_file(sys.argv[1], write)
"""


@pytest.mark.parametrize("code", [FOLDER_WRITER, FILE_WRITER])
def test_what_a_killed_job_left_is_deleted_and_what_runs_is_not(code: str, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def write() -> None:
        if code == FILE_WRITER:
            write_json(target, {})
            return
        shutil.rmtree(target, ignore_errors=True)
        with write_folder(target) as folder:
            (folder / "whole").write_text("all")

    (tmp_path / ".out.settings").mkdir()
    (tmp_path / ".out.12.0123abcd").touch()
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "writing\n"
        (unfinished,) = tmp_path.glob(".out.t2l-*")
        write()
        assert unfinished.exists()
        job.kill()
    assert not target.is_file() or target.read_text() != "half"
    write()
    entries = sorted(entry.name for entry in tmp_path.iterdir())
    assert entries == [".out.12.0123abcd", ".out.settings", "out"]
