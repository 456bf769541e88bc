"""Folder trees of PEFT adapters -> one library; what differs is named, or brought to one rank."""

from __future__ import annotations

import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import torch

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, T2LWarning, list_some
from text_to_lora.files import JsonError, check_output, file_hash, lock, read_bytes, read_json
from text_to_lora.library.library import (
    INDEX_FILE,
    AdapterLibrary,
    LibraryEntry,
    load_library,
    write_library,
)
from text_to_lora.lora.outline import ModelOutline
from text_to_lora.lora.peft_config import CONFIG_FILE, read_adapter_config
from text_to_lora.lora.peft_format import (
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    load_adapter,
    read_modules,
)
from text_to_lora.lora.peft_selection import PeftSelection
from text_to_lora.lora.spec import LoraSpec, base_model_ref
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CARD_FILE: Final = "README.md"
LOCK_SECONDS: Final = 600.0  # of waiting for other jobs that add to the same library

_P = ParamSpec("_P")
_MAX_CARD: Final = 1 << 20  # bytes

# The hub's cache, and the names and cards of the Lots-of-LoRAs collection.
_HUB_CACHE: Final = re.compile(r"(?:.*/)?models--.+?--(?P<name>[^/]+)/snapshots/[0-9a-f]+")
_LOTS_OF_LORAS: Final = re.compile(r".+-r\d+-(?P<task>task\d+\w*)")
_LOTS_OF_LORAS_CARD: Final = re.compile(r"LoRA trained on (?P<task>task\d+_\w+)")
# What trainers write into every card says nothing of the task.
_NO_DESCRIPTION: Final = re.compile(
    r"LoRA trained on|This model is a fine-tuned version of|This is the model card|<|\[|!|\||[-*>] "
)
_UNDER_TITLE: Final = re.compile(r"^# .*\n(?P<text>(?:(?!#).*\n?)*)", re.MULTILINE)
_LAYER: Final = re.compile(r"(?P<path>.+?)\.(?P<layer>\d+)\.(?P<module>.+)")


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """A PEFT folder that is to go into a library.

    task: its name there; source: where it was found, as recorded in the library
    """

    task: str
    folder: Path
    source: str


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


@dataclass(frozen=True, slots=True)
class _Adapter:
    """An adapter of which configuration and tensor names have been read.

    modules: full paths in its file; slots: those that its configuration selects; dtype: of its
        file; the last two are filled in as they become known
    """

    found: FoundAdapter
    config: Mapping[str, Any]
    modules: frozenset[str]
    slots: frozenset[str] = frozenset()
    dtype: torch.dtype = torch.float32

    @property
    def task(self) -> str:
        return self.found.task

    @property
    def base(self) -> str:
        return str(self.config.get("base_model_name_or_path") or "")

    def spec(self, spec: LoraSpec) -> LoraSpec:
        """The spec with this adapter's own rank and scaling."""
        config = self.config
        return spec.with_(
            rank=config["r"],
            alpha=float(config["lora_alpha"]),
            rslora=bool(config.get("use_rslora")),
        )


def find_adapters(root: Path | str, *, name: str | None = None) -> list[FoundAdapter]:
    """Find the PEFT folders in a tree, sorted by path.

    name: what the tree is called where it comes from, such as "OWNER/NAME"; by default its path

    A folder's task is the one that our own provenance.json or a card of Lots-of-LoRAs names, else
    its path below `root`. Hidden folders and what lies below an adapter (checkpoints of its
    training) are left alone.

    Raises ConfigError when `root` is no folder or holds no adapter.
    """
    top = Path(root)
    source = str(root) if name is None else name
    if not top.is_dir():
        raise ConfigError(f"{source!r} is not a folder; give one with PEFT adapters in it")
    found = []
    for folder in _adapter_folders(top):
        below = folder.relative_to(top).as_posix()
        if below == ".":
            path, origin = Path(source.rstrip("/")).name or top.resolve().name, source
        else:
            path, origin = below, f"{source.rstrip('/')}/{below}"
        found.append(FoundAdapter(_task_name(folder, path), folder, origin))
    if not found:
        raise ConfigError(
            f"{source!r} holds no PEFT adapter ({CONFIG_FILE} with {WEIGHTS_FILE}) at any depth"
        )
    return found


def _alone(add: Callable[_P, ImportReport]) -> Callable[_P, ImportReport]:
    """Let only one job at a time add to a library, whose path is the second argument."""

    @functools.wraps(add)
    def add_alone(*args: _P.args, **options: _P.kwargs) -> ImportReport:
        path = str(options["path"] if "path" in options else args[1])
        place = Path(os.path.realpath(path))
        lock_file = place.with_name(f".{place.name}.lock")
        refusal = f"another job writes the library {path!r}"
        with lock(lock_file, wait_seconds=LOCK_SECONDS, refusal=refusal):
            return add(*args, **options)

    return add_alone


@_alone
def import_adapters(
    found: Sequence[FoundAdapter],
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

    Raises ConfigError for two folders of one task, tasks that the library has already, and
    descriptions of other tasks alone; SpecError, with who has what, when adapters are for another
    base or unlike in rank, modules or layers; AdapterFormatError when `path` is something else,
    an adapter is broken and `skip_bad` is not set, or none is left. Raises ConfigError too when
    another job writes the library for more than LOCK_SECONDS or has changed it in the meantime, or
    when its folder holds files of others (`check_output`).
    """
    index = _index_hash(path)
    library = load_library(path, skip_bad=skip_bad) if Path(path).exists() else None
    if library is not None:
        check_output(path, overwrite=True)
    _check_tasks(found, library, overwrite=overwrite)
    _check_descriptions(found, descriptions or {})
    skipped = _Skipped(allowed=skip_bad)
    adapters = skipped.keep(found, _read)
    name = _check_base(adapters, library, base, trust=trust_base)
    if library is None:
        revisions = {adapter.config.get("revision") for adapter in adapters}
        revision = revisions.pop() if len(revisions) == 1 else None
        config = read_base(name, revision)
        outline = ModelOutline.from_config(config)
        slots = {
            f"{outline.layers_path}.{slot.layer}.{slot.module}": slot for slot in outline.slots
        }
        adapters = skipped.keep(adapters, lambda adapter: _select(adapter, slots, config))
        _check_alike(adapters, None, rank)
        spec = LoraSpec.from_outline(
            outline,
            [slot for path, slot in slots.items() if path in adapters[0].slots],
            base=base_model_ref(config, name=name, revision=revision),
            rank=adapters[0].config["r"],
            alpha=float(adapters[0].config["lora_alpha"]),
            rslora=bool(adapters[0].config.get("use_rslora")),
        )
        if not all(_same_scaling(adapter.spec(spec), spec) for adapter in adapters):
            spec = spec.with_(alpha=float(spec.rank), rslora=False)
        if rank is not None:
            spec = spec.with_rank(rank)
    else:
        spec = library.spec
        adapters = skipped.keep(adapters, lambda adapter: _select(adapter, _slot_names(spec)))
        _check_alike(adapters, library, rank)
    adapters = skipped.keep(adapters, lambda adapter: _check_tensors(adapter, spec))
    return _write(adapters, path, spec, library, index, descriptions or {}, skipped.reasons)


class _Skipped:
    """Broken adapters that are left out; where that is not allowed the first is an error.

    reasons: task -> what is wrong with its adapter
    """

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self.reasons: dict[str, str] = {}

    def keep(
        self,
        items: Sequence[FoundAdapter] | Sequence[_Adapter],
        check: Callable[[Any], _Adapter],
    ) -> list[_Adapter]:
        """What `check` makes of every item that it raises no error for.

        Raises AdapterFormatError when none is left, or for the first where none may be left out.
        """
        kept = []
        for item in items:
            try:
                kept.append(check(item))
            except Exception as error:
                expected = isinstance(error, AdapterFormatError)
                if expected and not self.allowed:
                    raise AdapterFormatError(
                        f"the adapter of {item.task!r}: {error}, or leave it out with --skip-bad"
                    ) from error
                if not self.allowed:
                    raise  # a fault of this program; of thousands of files one may bring it out
                reason = str(error) if expected else f"{type(error).__name__}: {error}"
                self.reasons[item.task] = reason
                warnings.warn(
                    f"the adapter of {item.task!r} is left out: {reason}", T2LWarning, stacklevel=3
                )
        if not kept:
            raise AdapterFormatError(
                f"no adapter is left; all {len(self.reasons)} are broken: {list_some(self.reasons)}"
            )
        return kept


def _index_hash(path: Path | str) -> str | None:
    """What tells one state of a library from another; None where there is none."""
    file = Path(path) / INDEX_FILE
    return file_hash(file) if file.is_file() else None


def _read(found: FoundAdapter) -> _Adapter:
    """Read configuration, provenance and tensor names."""
    config = read_adapter_config(found.folder)
    _entry(found, {})
    return _Adapter(found, config, read_modules(found.folder, config["r"]))


def _select(
    adapter: _Adapter, known: Collection[str], config: PreTrainedConfig | None = None
) -> _Adapter:
    """Find the slots that an adapter's configuration selects.

    known: full paths of modules of the base, all of them if its configuration is given
    """
    selection = PeftSelection(adapter.config, repr(str(adapter.found.folder)))
    slots = frozenset(selection.select(adapter.modules.union(known)))
    if config is not None and not (slots and slots.issubset(known)):
        load_adapter(adapter.found.folder, base_config=config)  # raises, and says what is foreign
    return replace(adapter, slots=slots)


def _check_tensors(adapter: _Adapter, spec: LoraSpec) -> _Adapter:
    """Read all tensors once, and note their dtype."""
    weights = load_adapter(adapter.found.folder, spec=adapter.spec(spec))
    return replace(adapter, dtype=weights.dtype)


def _write(
    adapters: Sequence[_Adapter],
    path: Path | str,
    spec: LoraSpec,
    library: AdapterLibrary | None,
    index: str | None,
    descriptions: Mapping[str, Sequence[str]],
    skipped: Mapping[str, str],
) -> ImportReport:
    """Write the library's own adapters and these, one in memory at a time.

    index: hash of the library's index as it was read, None for a new library
    """
    new = {adapter.task: adapter for adapter in adapters}
    old = {} if library is None else {entry.task: entry for entry in library.entries}
    tasks = [*old, *(task for task in new if task not in old)]
    fresh = {task: _entry(adapter.found, descriptions) for task, adapter in new.items()}
    dtypes = [_dtype_under(adapter, spec) for adapter in adapters]
    dtypes += [] if library is None else [library.weights.dtype]
    dtype = functools.reduce(torch.promote_types, dtypes)
    errors: dict[str, float] = {}

    def in_order() -> Iterator[LoraWeights]:
        for task in tasks:
            if task not in new:
                assert library is not None
                yield library.adapter(task)
                continue
            adapter = new[task]
            weights = load_adapter(adapter.found.folder, spec=adapter.spec(spec))
            weights = weights.to(dtype=_dtype_under(adapter, spec))
            if weights.spec.rank != spec.rank:
                weights, error = weights.refactor(spec.rank)
                errors[task] = float(error)
            yield _rescaled(weights, spec)

    def check_unchanged() -> None:
        if _index_hash(path) != index:
            raise ConfigError(
                f"another job changed the library {str(path)!r} in the meantime; nothing was added; "
                "repeat"
            )

    training = None if library is None else library.training
    write_library(
        path,
        spec,
        [fresh[task] if task in fresh else old[task] for task in tasks],
        in_order(),
        dtype=dtype,
        training=training,
        overwrite=library is not None,
        check_replaced=check_unchanged,
    )
    undescribed = [task for task in new if not fresh[task].descriptions]
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
        skipped=skipped,
        num_adapters=len(tasks),
        dtype=dtype,
        rescaled=not all(_same_scaling(adapter.spec(spec), spec) for adapter in adapters),
        rank_errors=errors,
        undescribed=tuple(undescribed),
    )


def _dtype_under(adapter: _Adapter, spec: LoraSpec) -> torch.dtype:
    """The dtype that keeps an adapter's ΔW when it is brought under a spec."""
    own = adapter.spec(spec)
    if own.rank == spec.rank and _same_scaling(own, spec):
        return adapter.dtype
    return torch.promote_types(adapter.dtype, torch.float32)


def _rescaled(weights: LoraWeights, spec: LoraSpec) -> LoraWeights:
    """The same ΔW under another scaling; only B changes."""
    if _same_scaling(weights.spec, spec):
        return LoraWeights(spec, weights.a, weights.b)
    ratio = weights.spec.scaling / spec.scaling
    return LoraWeights(spec, weights.a, {key: b * ratio for key, b in weights.b.items()})


def _same_scaling(one: LoraSpec, other: LoraSpec) -> bool:
    return math.isclose(one.scaling, other.scaling, rel_tol=1e-12)


def _adapter_folders(top: Path) -> Iterator[Path]:
    """Folders with an adapter_config.json, none below another, hidden ones left out."""

    def tell(error: OSError) -> None:
        warnings.warn(
            f"{error.filename!r} cannot be read ({error.strerror}); what is below is left out",
            T2LWarning,
            stacklevel=4,
        )

    seen: set[str] = set()
    for current, folders, files in os.walk(top, onerror=tell, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if CONFIG_FILE in files:
            folders.clear()
            yield Path(current)


def _task_name(folder: Path, path: str) -> str:
    """What the task of a folder is called; `path` is its place in the tree."""
    try:
        named = _provenance(folder).get("task")
    except AdapterFormatError:  # found again, and told, where the adapter is read
        named = None
    if isinstance(named, str) and named.strip().isprintable() and 0 < len(named.strip()) <= 255:
        return named.strip()
    if cached := _HUB_CACHE.fullmatch(path):
        path = cached["name"]
    if public := _LOTS_OF_LORAS.fullmatch(path.rpartition("/")[2]):
        card = _LOTS_OF_LORAS_CARD.search(_card(folder))
        return card["task"] if card else public["task"]
    return path


def _card(folder: Path) -> str:
    """Text of a model card without its header and comments; "" when there is none."""
    try:
        text = read_bytes(folder / CARD_FILE, max_bytes=_MAX_CARD).decode(errors="replace")
    except JsonError:  # missing, not to be read, or no card by its size
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    before, *comments = text.split("<!--")
    return before + "".join(comment.partition("-->")[2] for comment in comments)


def _card_description(folder: Path) -> str:
    """The paragraph between the title of a card and its next heading; "" when it says nothing."""
    section = _UNDER_TITLE.search(_card(folder))
    for paragraph in section["text"].split("\n\n") if section else ():
        text = " ".join(paragraph.split())
        if text and not _NO_DESCRIPTION.match(text):
            return text
    return ""


def _provenance(folder: Path) -> dict[str, Any]:
    file = folder / PROVENANCE_FILE
    return read_json(file, AdapterFormatError) if os.path.lexists(file) else {}


def _entry(found: FoundAdapter, given: Mapping[str, Sequence[str]]) -> LibraryEntry:
    """What is known of an adapter: the given descriptions, else its provenance, else its card."""
    provenance = _provenance(found.folder)
    described = provenance.get("descriptions", provenance.get("description"))
    described = described if isinstance(described, list) else [described]
    try:
        return LibraryEntry(
            task=found.task,
            descriptions=(
                tuple(given.get(found.task, ()))
                or tuple(filter(None, described))
                or tuple(filter(None, [_card_description(found.folder)]))
            ),
            validation_loss=provenance.get("validation_loss"),
            base_loss=provenance.get("base_loss"),
            steps=provenance.get("steps"),
            rows=provenance.get("rows"),
            source=found.source,
        )
    except ConfigError as error:
        raise AdapterFormatError(f"{str(found.folder / PROVENANCE_FILE)!r}: {error}") from error


def _check_tasks(
    found: Sequence[FoundAdapter], library: AdapterLibrary | None, *, overwrite: bool
) -> None:
    folders: dict[str, str] = {}
    for item in found:
        if item.task in folders:
            raise ConfigError(
                f"two adapters are of task {item.task!r}: {folders[item.task]!r} and "
                f"{item.source!r}; rename a folder or leave one out"
            )
        folders[item.task] = item.source
    names = set() if library is None or overwrite else set(library.names)
    if known := [task for task in folders if task in names]:
        raise ConfigError(
            f"the library has {len(known)} of these tasks already: {list_some(known)}; "
            "pass --overwrite to replace their adapters"
        )


def _check_descriptions(
    found: Sequence[FoundAdapter], descriptions: Mapping[str, Sequence[str]]
) -> None:
    if descriptions and not any(item.task in descriptions for item in found):
        raise ConfigError(
            f"the descriptions are of {list_some(descriptions)}, none of which is imported; "
            f"the tasks are {list_some(item.task for item in found)}"
        )


def _check_base(
    adapters: Sequence[_Adapter], library: AdapterLibrary | None, base: str | None, *, trust: bool
) -> str:
    """Name of the one base of all; raise SpecError with the names when there are several."""
    if library is not None:
        name = library.spec.base.name
        if base is not None and not _same_base(base, name):
            raise SpecError(f"the library is for base {name!r}, not {base!r}; leave --base out")
        owner = f"the library is for base {name!r}"
    else:
        name = base or next((adapter.base for adapter in adapters if adapter.base), "")
        owner = f"the base is {name!r}"
    if not name and library is None:
        raise ConfigError("no adapter says what its base is; name it with --base")
    if trust and base is None and library is None:
        raise ConfigError("--trust-base needs a base to trust; name it with --base")
    others: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.base and not _same_base(adapter.base, name):
            others.setdefault(adapter.base, []).append(adapter.task)
    if others and not trust:
        listing = "; ".join(f"{other!r} in {list_some(tasks)}" for other, tasks in others.items())
        raise SpecError(
            f"adapters of another base: {owner}, but adapters name {listing}; leave them out, or "
            "pass --base and --trust-base when it is the same model under another name"
        )
    return name


def _same_base(one: str, other: str) -> bool:
    """Whether two names of a base, of the hub or of folders, are the same."""
    return one == other or (
        os.path.isdir(one) and os.path.isdir(other) and os.path.samefile(one, other)
    )


def _slot_names(spec: LoraSpec) -> set[str]:
    return {spec.module_name(slot.layer, slot.module) for slot in spec.slots}


def _check_alike(
    adapters: Sequence[_Adapter], library: AdapterLibrary | None, rank: int | None
) -> None:
    """Raise SpecError, with who has what, when adapters cannot share a spec."""
    ranks: dict[str, list[str]] = {}
    modules: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    slots: dict[str, list[str]] = {}
    every_slot = frozenset[str]().union(*(adapter.slots for adapter in adapters))
    if library is not None:
        every_slot |= _slot_names(library.spec)

    def note(name: str, its_rank: int, names: frozenset[str]) -> None:
        matches = [match for slot in names if (match := _LAYER.fullmatch(slot))]
        paths = sorted({match["module"] for match in matches})
        numbers = sorted({int(match["layer"]) for match in matches})
        ranks.setdefault(f"rank {its_rank}", []).append(name)
        modules.setdefault(f"modules {', '.join(paths)}", []).append(name)
        layers.setdefault(f"layers {_ranges(numbers)}", []).append(name)
        missing = sorted(every_slot - names)
        slots.setdefault(f"slots without {list_some(missing)}" if missing else "all", []).append(
            name
        )

    if library is not None:
        note("the library", library.spec.rank, frozenset(_slot_names(library.spec)))
    for adapter in adapters:
        note(repr(adapter.task), adapter.config["r"], adapter.slots)
    unlike = [kind for kind in (modules, layers) if len(kind) > 1]
    if len(slots) > 1 and not unlike:
        unlike = [slots]
    if library is not None and rank is not None and rank != library.spec.rank:
        raise SpecError(
            f"the library has rank {library.spec.rank}, not {rank}; "
            f"pass --rank {library.spec.rank} or start another library"
        )
    if len(ranks) > 1 and rank is None:
        unlike.insert(0, ranks)
    if unlike:
        listing = "; ".join(
            f"{value} in {list_some(owners)}" for kind in unlike for value, owners in kind.items()
        )
        remedy = (
            "bring them to one rank with --rank, which loses a part that is told"
            if unlike == [ranks]
            else "add only those that are alike"
        )
        raise SpecError(f"adapters are unlike: {listing}; {remedy}")


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in short form, as in "0-3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
