"""PEFT folders into one library; adapters that differ are named, or brought to one rank."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from text_to_lora.errors import AdapterFormatError, ConfigError, T2LWarning, list_some
from text_to_lora.files import check_output, file_hash, lock
from text_to_lora.library.compatibility import (
    AdapterContents,
    check_alike,
    find_base_name,
    slot_names,
)
from text_to_lora.library.folders import AdapterFolder, make_entry
from text_to_lora.library.library import INDEX_FILE, AdapterLibrary, load_library, write_library
from text_to_lora.lora.identity import base_model_ref
from text_to_lora.lora.outline import ModelOutline
from text_to_lora.lora.peft_config import read_adapter_config
from text_to_lora.lora.peft_format import load_adapter, read_modules
from text_to_lora.lora.peft_selection import PeftSelection
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LOCK_SECONDS: Final = 600.0  # of waiting for other jobs that add to the same library


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    added, replaced: tasks; skipped: task -> what is wrong with its adapter
    num_adapters: in the library afterwards; dtype: of its file
    rescaled: some adapters had another scaling, which was folded into B
    rank_errors: task -> |ΔW - ΔW'| / |ΔW| of each adapter that came from another rank
    undescribed: tasks that were imported without descriptions
    """

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    skipped: Mapping[str, str]
    num_adapters: int
    dtype: torch.dtype
    rescaled: bool
    rank_errors: Mapping[str, float]
    undescribed: tuple[str, ...]


def import_adapters(
    sources: Sequence[AdapterFolder],
    path: Path | str,
    *,
    read_base: Callable[[str, str | None], PreTrainedConfig],
    base: str | None = None,
    trust_base: bool = False,
    rank: int | None = None,
    descriptions: Mapping[str, Sequence[str]] | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ImportReport:
    """Write PEFT adapters into a new library or the one at `path`; ΔW stays that of the folders.

    The library is written whole or not at all. Jobs that add to one library wait for each other.
    read_base: gives the configuration of a base model by name and revision; asked for a new library
    base: name of the base; by default the library's, or the one that the adapters name
    trust_base: take adapters that name another base for adapters of `base`
    rank: bring every adapter to this rank by truncated SVD; None refuses unlike ranks
    descriptions: task -> texts, before those in the folders
    skip_bad: leave broken adapters out with a T2LWarning each
    overwrite: replace the adapters of tasks that the library has

    Unlike scalings are folded into B, in float32 or wider: adapters of one scaling keep it, and
    others get scaling 1 in a new library and the library's in an existing one.

    Raises ConfigError for two folders of one task, tasks that the library has already,
    descriptions of other tasks alone, when another job writes the library for more than
    LOCK_SECONDS or has changed it in the meantime, or when its folder holds files of others
    (`check_output`); SpecError as `find_base_name` and `check_alike` do; AdapterFormatError when
    `path` is something else, an adapter is broken and `skip_bad` is not set, or none is left.
    """
    place = Path(os.path.realpath(path))
    lock_file = place.with_name(f".{place.name}.lock")
    refusal = f"another job writes the library {str(path)!r}"
    with lock(lock_file, wait_seconds=LOCK_SECONDS, refusal=refusal):
        index_hash = _hash_index(path)
        library = load_library(path, skip_bad=skip_bad) if Path(path).exists() else None
        if library is not None:
            check_output(path, overwrite=True)
        broken = _BrokenAdapters(skip=skip_bad)
        sources = broken.leave_out_repeated(sources)
        _check_tasks(sources, library, descriptions or {}, overwrite=overwrite)
        adapters = broken.leave_out(sources, _read_contents)
        name = find_base_name(adapters, library, base, trust=trust_base)
        if library is None:
            adapters, spec = _make_spec(adapters, name, read_base, rank, broken)
        else:
            spec = library.spec
            known = slot_names(spec)
            adapters = broken.leave_out(adapters, lambda adapter: _select_slots(adapter, known))
            check_alike(adapters, library, rank)
        adapters = broken.leave_out(adapters, lambda adapter: _read_dtype(adapter, spec))
        check = functools.partial(_check_unchanged, path, index_hash)
        report = _write(adapters, path, spec, library, descriptions or {}, check)
    return replace(report, skipped=broken.reasons)


class _BrokenAdapters:
    """Collects broken adapters that are left out; unless asked for, the first is an error.

    reasons: task -> what is wrong with its adapter; the folder of a second adapter of a task -> that
    """

    def __init__(self, *, skip: bool) -> None:
        self.skip = skip
        self.reasons: dict[str, str] = {}

    def leave_out_repeated(self, adapters: Sequence[AdapterFolder]) -> list[AdapterFolder]:
        """Keep the first adapter of each task.

        Raises ConfigError for the second of a task where none may be left out.
        """
        first: dict[str, AdapterFolder] = {}
        for adapter in adapters:
            other = first.setdefault(adapter.task, adapter)
            if other is adapter:
                continue
            fault = f"two adapters are of task {adapter.task!r}: {other.source!r} and {adapter.source!r}"
            if not self.skip:
                raise ConfigError(f"{fault}; rename a folder, or take the first with --skip-bad")
            self.reasons[adapter.source] = fault
            warnings.warn(f"{fault}; the second is left out", T2LWarning, stacklevel=3)
        return list(first.values())

    def leave_out(
        self,
        adapters: Sequence[AdapterFolder] | Sequence[AdapterContents],
        read: Callable[[Any], AdapterContents],
    ) -> list[AdapterContents]:
        """Read every adapter, and leave out those for which `read` raises an error.

        Raises AdapterFormatError when none is left, or for the first where none may be left out.
        """
        good = []
        for adapter in adapters:
            try:
                good.append(read(adapter))
            except Exception as error:
                expected = isinstance(error, AdapterFormatError)
                if expected and not self.skip:
                    raise AdapterFormatError(
                        f"the adapter of {adapter.task!r}: {error}, or leave it out with --skip-bad"
                    ) from error
                if not self.skip:
                    raise  # a fault of this program; of thousands of files one may bring it out
                reason = str(error) if expected else f"{type(error).__name__}: {error}"
                self.reasons[adapter.task] = reason
                warnings.warn(
                    f"the adapter of {adapter.task!r} is left out: {reason}",
                    T2LWarning,
                    stacklevel=3,
                )
        if not good:
            raise AdapterFormatError(
                f"no adapter is left; all {len(self.reasons)} are broken: {list_some(self.reasons)}"
            )
        return good


def _hash_index(path: Path | str) -> str | None:
    """SHA-256 of a library's index, which changes with the library; None without a library."""
    file = Path(path) / INDEX_FILE
    return file_hash(file) if file.is_file() else None


def _check_unchanged(path: Path | str, index_hash: str | None) -> None:
    """Check that a library is in the state of this hash."""
    if _hash_index(path) != index_hash:
        raise ConfigError(
            f"another job changed the library {str(path)!r} in the meantime; nothing was added; repeat"
        )


def _check_tasks(
    sources: Sequence[AdapterFolder],
    library: AdapterLibrary | None,
    descriptions: Mapping[str, Sequence[str]],
    *,
    overwrite: bool,
) -> None:
    tasks = [adapter.task for adapter in sources]
    names = set() if library is None or overwrite else set(library.names)
    if known := [task for task in tasks if task in names]:
        raise ConfigError(
            f"the library has {len(known)} of these tasks already: {list_some(known)}; "
            "pass --overwrite to replace their adapters"
        )
    if descriptions and not set(tasks) & descriptions.keys():
        raise ConfigError(
            f"the descriptions are of {list_some(descriptions)}, none of which is imported; "
            f"the tasks are {list_some(tasks)}"
        )


def _read_contents(source: AdapterFolder) -> AdapterContents:
    """Read configuration, provenance and tensor names."""
    config = read_adapter_config(source.folder)
    make_entry(source, {})
    return AdapterContents(source, config, read_modules(source.folder, config["r"]))


def _make_spec(
    adapters: Sequence[AdapterContents],
    name: str,
    read_base: Callable[[str, str | None], PreTrainedConfig],
    rank: int | None,
    broken: _BrokenAdapters,
) -> tuple[list[AdapterContents], LoraSpec]:
    """The spec of a new library, and the adapters with the slots that they select in its base."""
    revisions = {adapter.config.get("revision") for adapter in adapters}
    revision = revisions.pop() if len(revisions) == 1 else None
    config = read_base(name, revision)
    outline = ModelOutline.from_config(config)
    slots = {f"{outline.layers_path}.{slot.layer}.{slot.module}": slot for slot in outline.slots}
    adapters = broken.leave_out(adapters, lambda adapter: _select_slots(adapter, slots, config))
    check_alike(adapters, None, rank)
    spec = LoraSpec.from_outline(
        outline,
        [slot for path, slot in slots.items() if path in adapters[0].slots],
        base=base_model_ref(config, name=name, revision=revision),
        **adapters[0].scale,
    )
    if not all(_has_scaling(adapter, spec) for adapter in adapters):
        spec = spec.with_(alpha=float(spec.rank), rslora=False)
    return adapters, spec if rank is None else spec.with_rank(rank)


def _select_slots(
    adapter: AdapterContents, known: Collection[str], config: PreTrainedConfig | None = None
) -> AdapterContents:
    """Add the slots that an adapter's configuration selects.

    known: full paths of modules of the base, all of them if its configuration is given
    """
    folder = adapter.source.folder
    selection = PeftSelection(adapter.config, repr(str(folder)))
    slots = frozenset(selection.select(adapter.modules.union(known)))
    if config is not None and not (slots and slots.issubset(known)):
        load_adapter(folder, base_config=config)  # raises, and says what is foreign
    return replace(adapter, slots=slots)


def _read_dtype(adapter: AdapterContents, spec: LoraSpec) -> AdapterContents:
    """Read all tensors once, and add their dtype."""
    weights = load_adapter(adapter.source.folder, spec=spec.with_(**adapter.scale))
    return replace(adapter, dtype=weights.dtype)


def _write(
    adapters: Sequence[AdapterContents],
    path: Path | str,
    spec: LoraSpec,
    library: AdapterLibrary | None,
    descriptions: Mapping[str, Sequence[str]],
    check_unchanged: Callable[[], None],
) -> ImportReport:
    """Write the library's own adapters and these, one in memory at a time."""
    old = {} if library is None else {entry.task: entry for entry in library.entries}
    new = {adapter.task: adapter for adapter in adapters}
    entries = old | {task: make_entry(new[task].source, descriptions) for task in new}
    dtypes = [_needed_dtype(adapter, spec) for adapter in adapters]
    dtypes += [] if library is None else [library.weights.dtype]
    dtype = functools.reduce(torch.promote_types, dtypes)
    rank_errors: dict[str, float] = {}

    def in_order() -> Iterator[LoraWeights]:
        for task in entries:
            if task in new:
                weights, error = _bring_under(new[task], spec)
                if new[task].config["r"] != spec.rank:
                    rank_errors[task] = error
                yield weights
            else:
                assert library is not None
                yield library.adapter(task)

    write_library(
        path,
        spec,
        list(entries.values()),
        in_order(),
        dtype=dtype,
        training=None if library is None else library.training,
        overwrite=library is not None,
        check_replaced=check_unchanged,
    )
    undescribed = tuple(task for task in new if not entries[task].descriptions)
    if undescribed:
        warnings.warn(
            f"no descriptions of {list_some(undescribed)}: nothing can be trained on them by text until "
            "they are added again with descriptions",
            T2LWarning,
            stacklevel=3,
        )
    return ImportReport(
        added=tuple(task for task in new if task not in old),
        replaced=tuple(task for task in new if task in old),
        skipped={},
        num_adapters=len(entries),
        dtype=dtype,
        rescaled=not all(_has_scaling(adapter, spec) for adapter in adapters),
        rank_errors=rank_errors,
        undescribed=undescribed,
    )


def _bring_under(adapter: AdapterContents, spec: LoraSpec) -> tuple[LoraWeights, float]:
    """An adapter in the rank and scaling of a spec, and the relative error of ΔW."""
    weights = load_adapter(adapter.source.folder, spec=spec.with_(**adapter.scale))
    weights = weights.to(dtype=_needed_dtype(adapter, spec))
    error = 0.0
    if weights.spec.rank != spec.rank:
        weights, errors = weights.refactor(spec.rank)
        error = float(errors)
    if _has_scaling(adapter, spec):
        return LoraWeights(spec, weights.a, weights.b), error
    ratio = weights.spec.scaling / spec.scaling
    return LoraWeights(spec, weights.a, {k: b * ratio for k, b in weights.b.items()}), error


def _needed_dtype(adapter: AdapterContents, spec: LoraSpec) -> torch.dtype:
    """The dtype that keeps an adapter's ΔW when it is brought under a spec."""
    if adapter.config["r"] == spec.rank and _has_scaling(adapter, spec):
        return adapter.dtype
    return torch.promote_types(adapter.dtype, torch.float32)


def _has_scaling(adapter: AdapterContents, spec: LoraSpec) -> bool:
    return math.isclose(spec.with_(**adapter.scale).scaling, spec.scaling, rel_tol=1e-12)
