from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.errors import CheckpointError
from text_to_lora.files import MAX_JSON_BYTES, check_format, content_hash, file_hash, read_json


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
    expected: dict[str, Any] = {"name": "adapter", "version": 1, "error": CheckpointError}
    check_format({"format": "adapter", "version": 1}, "x", **expected)
    with pytest.raises(CheckpointError, match="'x' has format 'table'; 'adapter' is expected"):
        check_format({"format": "table"}, "x", **expected)
    with pytest.raises(CheckpointError, match="'x' has version 2; this release reads 1"):
        check_format({"format": "adapter", "version": 2}, "x", **expected)


def test_hashes_are_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert content_hash({"b": [1], "a": "é"}) == content_hash({"a": "é", "b": [1]})
    assert content_hash({"a": "é"}) == hashlib.sha256('{"a":"é"}'.encode()).hexdigest()
