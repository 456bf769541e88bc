"""The folder of a run: settings, checkpoints to resume from, history, results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError
from text_to_lora.files import check_format, read_json, write_folder, write_json, write_text
from text_to_lora.training.config import Recipe

FORMAT: Final = "text-to-lora run"
VERSION: Final = 1
MARK: Final = "COMPLETE"
_PREFIX: Final = "checkpoint-"
# In the order in which they are deleted: the settings last, so that a folder whose deletion was
# cut off is still known as a run.
_OURS: Final = (
    "result.json",
    f"{_PREFIX}[0-9]*",
    "history.jsonl",
    "history.png",
    "hypernet",
    "adapter",
    "last",
    "groups",
    "library",
    "library.png",
    "multitask",
    "config.json",
)


class RunFolder:
    """Where a run keeps everything; a process that is killed leaves a folder to resume from.

    path: the folder
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def open(self, config: Recipe, *, resume: bool) -> None:
        """Make the folder, or check that it holds a run of the same settings.

        resume: False deletes the run that is there

        Raises ConfigError when the folder holds anything else, or a run of other settings.
        """
        file = self.path / "config.json"
        payload = {"format": FORMAT, "version": VERSION, **config.to_dict()}
        if file.exists():
            stored = read_json(file)
            check_format(stored, file, name=FORMAT, version=VERSION, error=ConfigError)
            if resume:
                self._check_settings(stored, config)
                self._clean()
                return
            self._delete(_OURS)
        elif any(self.path.glob("[!.]*")):
            raise ConfigError(
                f"{str(self.path)!r} holds files, but no run; choose another output folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(file, payload)

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, None while the run goes on."""
        file = self.path / "result.json"
        return read_json(file) if file.exists() else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run as done."""
        write_json(self.path / "result.json", result)

    def delete(self) -> None:
        """Delete the run, and its folder if nothing else is in it."""
        self._delete(["embeddings", *_OURS])
        with suppress(OSError):
            self.path.rmdir()

    def newest_checkpoint(self) -> Path | None:
        """The complete checkpoint of the highest step."""
        return max(self._checkpoints(), key=_step, default=None)

    @contextmanager
    def checkpoint(self, step: int, *, keep: int) -> Iterator[Path]:
        """Give a folder to write a checkpoint into; it counts once the block is left.

        keep: complete checkpoints that stay, this one included
        """
        path = self.path / f"{_PREFIX}{step}"
        with write_folder(path, overwrite=True) as folder:
            yield folder
            (folder / MARK).touch()
        for old in sorted(self._checkpoints(), key=_step)[:-keep]:
            (old / MARK).unlink()  # first, so that a half-deleted folder does not count
            shutil.rmtree(old)

    def write_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace the history, as after going back to a checkpoint."""
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_text(self.path / "history.jsonl", text)

    def add_history(self, line: Mapping[str, Any]) -> None:
        """Append a line to the history."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")

    def _checkpoints(self) -> list[Path]:
        return [mark.parent for mark in self.path.glob(f"{_PREFIX}*/{MARK}")]

    def _check_settings(self, stored: Mapping[str, Any], config: Recipe) -> None:
        # A field that is younger than the run had its default, where it has one.
        known = {
            section: type(fields).model_construct().model_dump(mode="json")
            | stored.get(section, {})
            for section, fields in config
        }
        changed = [
            f"{section}.{field}: {known[section].get(field)!r} -> {value!r}"
            for section, fields in config.to_dict().items()
            for field, value in fields.items()
            if known[section].get(field) != value
        ]
        changed += [
            f"{section}.{field}: {known[section][field]!r} -> no setting of this version"
            for section, fields in config
            for field in known[section]
            if field not in type(fields).model_fields
        ]
        if changed:
            raise ConfigError(
                f"the run in {str(self.path)!r} has other settings: {'; '.join(changed)}; "
                "choose another output folder, or start anew with --fresh"
            )

    def _clean(self) -> None:
        """Delete what a killed process left: temporary files, half-deleted checkpoints."""
        self._delete(f".{pattern}.*" for pattern in _OURS)
        for folder in self.path.glob(f"{_PREFIX}[0-9]*"):
            if not (folder / MARK).exists():
                shutil.rmtree(folder)

    def _delete(self, patterns: Iterable[str]) -> None:
        for path in {path for pattern in patterns for path in self.path.glob(pattern)}:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))
