"""Checks that adapters can share one library: one base, equal slots, equal ranks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch

from text_to_lora.errors import ConfigError, SpecError, list_some
from text_to_lora.library.folders import AdapterFolder
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.spec import LoraSpec

_LAYER: Final = re.compile(r"(?P<path>.+?)\.(?P<layer>\d+)\.(?P<module>.+)")


@dataclass(frozen=True, slots=True)
class AdapterContents:
    """An adapter of which configuration and tensor names have been read.

    modules: full paths in its file; slots: those that its configuration selects; dtype: of its
        file; the last two are filled in as they become known
    """

    source: AdapterFolder
    config: Mapping[str, Any]
    modules: frozenset[str]
    slots: frozenset[str] = frozenset()
    dtype: torch.dtype = torch.float32

    @property
    def task(self) -> str:
        """Name of its task in the library."""
        return self.source.task

    @property
    def base(self) -> str:
        """Name of its base model, "" where the configuration gives none."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def scale(self) -> dict[str, Any]:
        """Its rank and scaling, as arguments of a spec."""
        return {
            "rank": self.config["r"],
            "alpha": float(self.config["lora_alpha"]),
            "rslora": bool(self.config.get("use_rslora")),
        }


def find_base_name(
    adapters: Sequence[AdapterContents],
    library: AdapterLibrary | None,
    base: str | None,
    *,
    trust: bool,
) -> str:
    """Name of the one base of a library and the adapters to add.

    base, trust: as `base` and `trust_base` of `import_adapters`

    Raises SpecError with the names when there are several, ConfigError when there is none.
    """
    if library is not None:
        name = library.spec.base.name
        if base is not None and not _is_same_base(base, name):
            raise SpecError(f"the library is for base {name!r}, not {base!r}; leave --base out")
        owner = f"the library is for base {name!r}"
    else:
        name = base or next((adapter.base for adapter in adapters if adapter.base), "")
        owner = f"the base is {name!r}"
        if not name:
            raise ConfigError("no adapter says what its base is; name it with --base")
        if trust and base is None:
            raise ConfigError("--trust-base needs a base to trust; name it with --base")
    others: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.base and not _is_same_base(adapter.base, name):
            others.setdefault(adapter.base, []).append(adapter.task)
    if others and not trust:
        listing = "; ".join(f"{other!r} in {list_some(tasks)}" for other, tasks in others.items())
        raise SpecError(
            f"adapters of another base: {owner}, but adapters name {listing}; leave them out, or "
            "pass --base and --trust-base when it is the same model under another name"
        )
    return name


def slot_names(spec: LoraSpec) -> frozenset[str]:
    """Full paths of the slots of a spec in the base model."""
    return frozenset(spec.module_name(slot.layer, slot.module) for slot in spec.slots)


def check_alike(
    adapters: Sequence[AdapterContents], library: AdapterLibrary | None, rank: int | None
) -> None:
    """Check that adapters can share a spec.

    rank: that all are brought to; None asks for equal ranks

    Raises SpecError that says who has which rank, modules, layers or slots.
    """
    owners = {repr(adapter.task): (adapter.config["r"], adapter.slots) for adapter in adapters}
    if library is not None:
        if rank is not None and rank != library.spec.rank:
            raise SpecError(
                f"the library has rank {library.spec.rank}, not {rank}; "
                f"pass --rank {library.spec.rank} or start another library"
            )
        owners = {"the library": (library.spec.rank, slot_names(library.spec))} | owners
    every_slot = frozenset[str]().union(*(slots for _, slots in owners.values()))
    properties: dict[str, dict[str, list[str]]] = {}
    for owner, (its_rank, slots) in owners.items():
        matches = [match for slot in slots if (match := _LAYER.fullmatch(slot))]
        layers = sorted({int(match["layer"]) for match in matches})
        missing = sorted(every_slot - slots)
        for name, value in (
            ("rank", f"rank {its_rank}"),
            ("modules", f"modules {', '.join(sorted({match['module'] for match in matches}))}"),
            ("layers", f"layers {_shorten_numbers(layers)}"),
            ("slots", f"slots without {list_some(missing)}" if missing else "all"),
        ):
            properties.setdefault(name, {}).setdefault(value, []).append(owner)
    unlike = [name for name in ("modules", "layers") if len(properties[name]) > 1]
    if not unlike and len(properties["slots"]) > 1:
        unlike = ["slots"]
    if rank is None and len(properties["rank"]) > 1:
        unlike.insert(0, "rank")
    if unlike:
        listing = "; ".join(
            f"{value} in {list_some(owners)}"
            for name in unlike
            for value, owners in properties[name].items()
        )
        remedy = (
            "bring them to one rank with --rank, which reports what is lost"
            if unlike == ["rank"]
            else "add only those that are alike"
        )
        raise SpecError(f"adapters are unlike: {listing}; {remedy}")


def _is_same_base(one: str, other: str) -> bool:
    """Whether two names of a base, of the hub or of folders, are the same."""
    return one == other or (
        os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other)
    )


def _shorten_numbers(numbers: Sequence[int]) -> str:
    """Sorted numbers in short form, as in "0-3, 5"."""
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(members[0][1], members[-1][1]) for members in (list(run) for _, run in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)
