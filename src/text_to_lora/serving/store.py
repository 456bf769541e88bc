"""Adapters on disk: one PEFT folder each, written whole, the least recently used removed first."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError, T2LError, shorten
from text_to_lora.files import check_format, content_hash, read_json, write_json
from text_to_lora.generate import Adapters
from text_to_lora.lora.peft_config import CONFIG_FILE
from text_to_lora.lora.peft_format import PROVENANCE_FILE, load_adapter
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

FORMAT: Final = "text-to-lora store"
VERSION: Final = 1
_INDEX: Final = "store.json"
_ID: Final = re.compile(r"t2l-[0-9a-f]{32}")
_ALIAS: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LEFTOVER: Final = 86_400.0  # seconds after which a folder that was never finished is removed


class StoreError(T2LError, RuntimeError):
    """The store can take no other adapter: its disk is full or cannot be written."""


class AliasError(T2LError, ValueError):
    """An alias is taken, or is no name that an alias can have."""


def make_id(facts: Mapping[str, Any]) -> str:
    """The id of an adapter that these facts determine: equal facts, equal id, on every machine."""
    return f"t2l-{content_hash(dict(facts))[:32]}"


def is_id(name: str) -> bool:
    """Whether a name has the form of an id."""
    return _ID.fullmatch(name) is not None


class AdapterStore:
    """A folder of adapters, which several processes may use at once.

    max_adapters: that it holds; an adapter with an alias, or one that was refined, is removed only
        by `delete`

    Raises ConfigError when the folder is none of a store, or cannot be written.
    """

    def __init__(self, folder: Path, max_adapters: int = 1000) -> None:
        if max_adapters < 1:
            raise ConfigError(f"max-adapters is {max_adapters}; 1 or more is needed")
        self._max_adapters = max_adapters
        self._adapters, self._aliases = folder / "adapters", folder / "aliases"
        index = folder / _INDEX
        if index.exists():
            check_format(read_json(index), index, name=FORMAT, version=VERSION, error=ConfigError)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{str(folder)!r} is no store of adapters; name a new folder")
        else:
            write_json(index, {"format": FORMAT, "version": VERSION})
        for part in (self._adapters, self._aliases):
            part.mkdir(exist_ok=True)
        for leftover in self._adapters.glob(".*"):  # of processes that were killed
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER:
                    shutil.rmtree(leftover)

    def __len__(self) -> int:
        return len(self.ids())

    def __contains__(self, adapter_id: str) -> bool:
        return is_id(adapter_id) and (self._adapters / adapter_id / CONFIG_FILE).is_file()

    def ids(self) -> list[str]:
        """Ids of all adapters, the least recently used first."""
        used = {}
        for folder in self._adapters.iterdir():
            if is_id(folder.name):
                with suppress(FileNotFoundError):  # removed in the meantime
                    used[folder.name] = folder.stat().st_mtime_ns
        return sorted(used, key=lambda name: (used[name], name))

    def path(self, adapter_id: str) -> Path:
        """The PEFT folder of an adapter that is there, which is noted as used now."""
        assert is_id(adapter_id)
        folder = self._adapters / adapter_id
        with suppress(OSError):
            os.utime(folder)
        return folder

    def load(self, adapter_id: str, spec: LoraSpec) -> LoraWeights:
        """Read an adapter that is there.

        Raises AdapterFormatError when the folder is damaged, or for another base than the spec's.
        """
        return load_adapter(self.path(adapter_id), spec=spec)

    def provenance(self, adapter_id: str) -> dict[str, Any]:
        """What is recorded of where an adapter comes from."""
        assert is_id(adapter_id)
        return read_json(self._adapters / adapter_id / PROVENANCE_FILE)

    def describe(self, adapter_id: str) -> dict[str, Any]:
        """An adapter that is there, as the API shows it."""
        facts = self.provenance(adapter_id)
        return {
            "id": adapter_id,
            "object": "adapter",
            "status": "ready",
            "created": int((self._adapters / adapter_id / CONFIG_FILE).stat().st_mtime),
            "description": facts["description"],
            "strength": facts["strength"],
            "aliases": self.aliases(adapter_id),
            "nearest_description": facts.get("nearest_description"),
            "refinement": facts.get("refinement"),
            "base": facts["base"],
        }

    def unfinished(self, adapter_id: str) -> Path:
        """The folder for the state of the training that makes an adapter; `add` removes it."""
        assert is_id(adapter_id)
        return self._adapters / f".{adapter_id}.unfinished"

    def add(self, adapter_id: str, adapter: Adapters) -> None:
        """Write one adapter; one that is there already is left as it is.

        Raises StoreError when it cannot be written, or nothing may be removed to make room.
        """
        assert is_id(adapter_id)
        if adapter_id in self:
            self.path(adapter_id)
            return
        self._make_room()
        try:
            adapter.save(self._adapters / adapter_id)
        except ConfigError as error:
            if adapter_id not in self:  # or another process wrote it first
                raise StoreError(str(error)) from error
        shutil.rmtree(self.unfinished(adapter_id), ignore_errors=True)

    def delete(self, adapter_id: str) -> None:
        """Remove an adapter that is there, and its aliases."""
        for alias in self.aliases(adapter_id):
            (self._aliases / f"{alias}.json").unlink(missing_ok=True)
        folder = self._adapters / adapter_id
        doomed = folder.with_name(f".{adapter_id}.{os.getpid()}.removed")
        with suppress(FileNotFoundError):
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def set_alias(self, alias: str, adapter_id: str) -> None:
        """Give an adapter a name, which stays with it until the adapter is deleted.

        Raises AliasError when another adapter has it, or it is no name for one.
        """
        self.check_alias(alias, adapter_id)
        file = self._aliases / f"{alias}.json"
        try:
            write_json(file, {"id": adapter_id}, overwrite=False)
        except ConfigError as error:
            self.check_alias(alias, adapter_id)  # another process was first
            if not file.exists():
                raise StoreError(str(error)) from error

    def check_alias(self, alias: str, adapter_id: str) -> None:
        """Raise AliasError unless an adapter has this alias already, or can get it."""
        if not _ALIAS.fullmatch(alias) or is_id(alias):
            raise AliasError(
                f"alias {shorten(alias)} cannot be used; up to 64 of a-z, 0-9, '.', '_' and '-' "
                "are allowed, the first a letter or digit"
            )
        holder = self.find_alias(alias)
        if holder not in (None, adapter_id):
            raise AliasError(
                f"alias {alias!r} is that of {holder}; choose another, or delete that adapter"
            )

    def find_alias(self, alias: str) -> str | None:
        """The id of the adapter with an alias; None where there is none."""
        if not _ALIAS.fullmatch(alias):
            return None
        file = self._aliases / f"{alias}.json"
        return str(read_json(file)["id"]) if file.is_file() else None

    def aliases(self, adapter_id: str) -> list[str]:
        """The aliases of an adapter."""
        names = sorted(file.stem for file in self._aliases.glob("*.json"))
        return [name for name in names if self.find_alias(name) == adapter_id]

    def _make_room(self) -> None:
        """Remove adapters until one more fits."""
        ids = self.ids()
        if len(ids) < self._max_adapters:
            return
        named = {self.find_alias(file.stem) for file in self._aliases.glob("*.json")}
        removable = [
            name for name in ids if name not in named and "refinement" not in self._facts(name)
        ]
        excess = len(ids) - self._max_adapters + 1
        if len(removable) < excess:
            raise StoreError(
                f"the store holds {len(ids)} adapters and may hold {self._max_adapters}, and all "
                "have an alias or were refined; delete some, or raise --max-adapters"
            )
        for name in removable[:excess]:
            self.delete(name)

    def _facts(self, adapter_id: str) -> dict[str, Any]:
        try:
            return self.provenance(adapter_id)
        except ConfigError:  # damaged or removed in the meantime
            return {}
