from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from text_to_lora.errors import CheckpointError, ConfigError
from text_to_lora.files import (
    MAX_JSON_BYTES,
    check_format,
    content_hash,
    file_hash,
    read_json,
    write_file,
    write_folder,
    write_json,
)


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


@pytest.mark.parametrize("atomic", [True, False])
def test_of_two_jobs_for_one_new_folder_the_later_fails(
    atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Linux's own call and by plain renaming."""
    if not atomic:
        monkeypatch.setattr("text_to_lora.files.whole._rename_at_once", lambda *_, exchange: False)
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


@pytest.mark.parametrize("atomic", [True, False])
def test_a_folder_is_exchanged_whole(
    atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not atomic:
        monkeypatch.setattr("text_to_lora.files.whole._rename_at_once", lambda *_, exchange: False)
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


def test_of_two_jobs_for_one_new_file_the_later_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        with pytest.raises(ConfigError, match=rf"output file '.*{name}' exists already; choose"):
            write_file(
                tmp_path / name,
                lambda temporary: write_json(tmp_path / name, {}) or temporary.touch(),  # noqa: B023
                overwrite=False,
            )
        assert read_json(tmp_path / name) == {}
        monkeypatch.setattr("text_to_lora.files.whole._rename_at_once", lambda *_, exchange: False)
    write_json(tmp_path / "new", {"a": 1}, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "one", "two"]


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
    write_json(tmp_path / "x.json", {"kept": True})

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ConfigError, match=r"no space left on the disk of '.*x\.json'; free some"):
        write_file(tmp_path / "x.json", fail)
    assert read_json(tmp_path / "x.json") == {"kept": True}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist; check the path"),
        (b"\xe9", r"is not UTF-8 \(byte 0\)"),
        (b'{\n"a": }', "is not JSON: line 2: Expecting value"),
        (b"[1]", "holds a list; a JSON object is expected"),
    ],
)
def test_what_is_no_json_object_is_refused(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_json(tmp_path / "x", CheckpointError)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "is nested more than 64 deep"),
        (b'{"a": 1' + b"0" * 5000 + b"}", r"has a number of 5001 digits \(10000000...\)"),
        (b'{"r": 4, "x": 0, "r": 8}', "has the key 'r' twice in one object; leave one out"),
        (
            b'{"a": [{"b": "\\ud83c"}]}',
            r"has half of a surrogate pair in '\\ud83c', at \['a'\]\[0\]\['b'\]",
        ),
        (b'{"\\udc00": 1}', r"has half of a surrogate pair in '\\udc00', at a key"),
        (b'{"a": "' + b"x" * 200 + b'"}', "is larger than 100 bytes; check the path"),
    ],
)
def test_json_that_is_harmful_later_is_refused_in_one_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(content)
    limit = 100 if said.startswith("is larger") else MAX_JSON_BYTES
    with pytest.raises(CheckpointError, match=said) as caught:
        read_json(tmp_path / "x", CheckpointError, max_bytes=limit)
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_characters_a_byte_order_mark_and_some_depth_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(
        b'\xef\xbb\xbf{"a": "\\ud83c\\udf89", "b": ' + b"[" * 60 + b"]" * 60 + b"}"
    )
    assert read_json(tmp_path / "x")["a"] == "🎉"


def test_what_is_no_plain_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(CheckpointError, match=f"{name}' is not a file; check the path"):
            read_json(tmp_path / name, CheckpointError)
    with pytest.raises(CheckpointError, match=r"cannot be read \(File name too long\)"):
        read_json(tmp_path / ("x" * 300), CheckpointError)


def test_another_format_or_version_is_named() -> None:
    expected = {"name": "adapter", "version": 1, "error": CheckpointError}
    check_format({"format": "adapter", "version": 1}, "x", **expected)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="'x' has format 'table'; 'adapter' is expected"):
        check_format({"format": "table"}, "x", **expected)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="'x' has version 2; this release reads 1"):
        check_format({"format": "adapter", "version": 2}, "x", **expected)  # type: ignore[arg-type]


def test_hashes_are_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert content_hash({"b": [1], "a": "é"}) == content_hash({"a": "é", "b": [1]})
    assert content_hash({"a": "é"}) == hashlib.sha256('{"a":"é"}'.encode()).hexdigest()
