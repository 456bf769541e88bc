"""The slots of a base model that names of target modules mean."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence

from text_to_lora.errors import SpecError, T2LWarning, list_some
from text_to_lora.lora.outline import ModelOutline, Slot
from text_to_lora.lora.peft_selection import ALL_LINEAR


def find_slots(
    outline: ModelOutline, targets: str | Sequence[str], layers: Sequence[int] | None
) -> list[Slot]:
    """The slots of a base that targets mean in some layers, without those that are refused.

    targets, layers: as in `LoraSpec.from_config`

    Raises SpecError for a layer out of range and for a target that means no usable slot; warns
    (T2LWarning) when a target also means modules that cannot carry an adapter.
    """
    numbers = range(outline.num_layers) if layers is None else layers
    allowed = range(outline.num_layers)
    if not numbers or len(set(numbers)) != len(numbers) or not set(numbers) <= set(allowed):
        raise SpecError(
            f"layers are {list(numbers)}; distinct numbers from 0 to {len(allowed) - 1} are needed"
        )
    slots = [slot for slot in outline.slots if slot.layer in set(numbers)]
    usable = [slot for slot in slots if (slot.layer, slot.module) not in outline.refused]
    modules: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        if target == ALL_LINEAR:
            modules |= {slot.module for slot in usable} - outline.routers
        else:
            modules |= _resolve_target(target, outline, slots, {slot.module for slot in usable})
    return [slot for slot in usable if slot.module in modules]


def _resolve_target(
    target: str, outline: ModelOutline, slots: Sequence[Slot], usable: set[str]
) -> set[str]:
    """Paths of the usable modules that one target means.

    slots: all of the chosen layers; usable: paths of those that can carry an adapter
    """
    meant = {path for path in usable if _ends_with(path, target)}
    reasons = {
        slot.module: outline.refused[slot.layer, slot.module]
        for slot in slots
        if slot.module not in usable and _ends_with(slot.module, target)
    } | {
        path: "an expert sees tokens of any row, and each row has an adapter of its own"
        for path in outline.experts
        if f".{target}." in f".{path}."
    }
    if not meant and not reasons:
        raise SpecError(_describe_unknown(target, outline, {slot.module for slot in slots}))
    if reasons:
        left_out, reason = list_some(reasons), next(iter(reasons.values()))
        if not meant:
            raise SpecError(
                f"target {target!r} means {left_out}, which cannot carry an adapter: {reason}; "
                f"choose from {_listing(usable)}"
            )
        warnings.warn(
            f"target {target!r} adapts {_listing(meant)} but not {left_out}: {reason}",
            T2LWarning,
            stacklevel=4,
        )
    return meant


def _describe_unknown(target: str, outline: ModelOutline, available: set[str]) -> str:
    elsewhere = [slot.layer for slot in outline.slots if _ends_with(slot.module, target)]
    if elsewhere:
        return f"target {target!r} is not in the chosen layers; it is in layers {elsewhere}"
    names = available | {path.rpartition(".")[2] for path in available}
    near = difflib.get_close_matches(target, sorted(names), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no target module {target!r}{hint}; this model has {_listing(available)}"


def _ends_with(path: str, suffix: str) -> bool:
    return path == suffix or path.endswith(f".{suffix}")


def _listing(paths: Iterable[str]) -> str:
    return ", ".join(sorted(paths))
