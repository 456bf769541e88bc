from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from text_to_lora.cli.common import check_device, gather, progress, read_lines
from text_to_lora.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("loading") as show:
            show("generating")
        assert ("generating" in stream.getvalue()) is shown


def test_lines_are_stripped_and_blank_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("\ufeff one \r\n\n\ttwo\n".encode())
    assert read_lines(tmp_path / "x") == ["one", "two"]


@pytest.mark.parametrize("inside", list("\u2028\u2029\v\f\x85\x1c\x1d\x1e\r"))
def test_only_a_line_feed_ends_a_line(inside: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(f"one{inside}two\r\nthree\n".encode())
    assert read_lines(tmp_path / "x") == [f"one{inside}two", "three"]


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("second\n")
    assert gather(["first"], tmp_path / "x", "input", "--input-file") == ["first", "second"]


def test_an_argument_that_is_no_text_is_refused() -> None:
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")  # as the system hands it over
    with pytest.raises(ConfigError, match="description 2 of 2 is not UTF-8"):
        gather(["fine", broken], None, "description", "--from-file")


@pytest.mark.parametrize("device", ["cuda:99", "teapot"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    assert check_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=f"device '{device}' is not there"):
        check_device(device)
