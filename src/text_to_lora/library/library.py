"""AdapterLibrary: named adapters of one spec, stacked; one folder that is read memory-mapped."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, T2LWarning, list_some
from text_to_lora.fields import check_fields, from_json
from text_to_lora.files import check_format, content_hash, read_json, write_folder, write_json
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.tensors import find_differences, find_not_finite, load_tensors
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FORMAT: Final = "text-to-lora library"
VERSION: Final = 1
INDEX_FILE: Final = "index.json"
LIBRARY_FILE: Final = "library.safetensors"

# Names of dtypes in a safetensors header; others are not written.
_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


@dataclass(frozen=True, slots=True)
class LibraryEntry:
    """The entry of one adapter in a library: its task, descriptions, losses and origin.

    task: name, unique in the library
    descriptions: texts that describe the task, its definition first
    validation_loss, base_loss: of the adapter and of the base on held-out rows, nats a token
    steps: optimiser steps of the kept state; rows: training rows seen
    source: "trained", or where the adapter was imported from
    hash: SHA-256 over the adapter's tensors; filled in when the library is saved

    Raises ConfigError when a field cannot be.
    """

    task: str
    descriptions: tuple[str, ...] = ()
    validation_loss: float | None = None
    base_loss: float | None = None
    steps: int | None = None
    rows: int | None = None
    source: str = ""
    hash: str = ""

    def __post_init__(self) -> None:
        place = f"task {self.task!r} of a library"
        if isinstance(self.descriptions, list):
            object.__setattr__(self, "descriptions", tuple(self.descriptions))
        check_fields(self, place, ConfigError)
        if not self.task.strip():
            raise ConfigError(f"a library's task is named {self.task!r}; a name is needed")
        if not all(text.strip() for text in self.descriptions):
            raise ConfigError(f"{place}: descriptions is {self.descriptions!r}; one text is empty")
        for name in ("steps", "rows"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{place}: {name} is {getattr(self, name)}; 0 or more is needed")


@dataclass(frozen=True)
class _Index:
    """The fields of index.json."""

    format: str
    version: int
    dtype: str
    spec: dict[str, Any]
    adapters: list[Any]
    training: dict[str, Any]


class AdapterLibrary:
    """Adapters of one spec, stacked, with an entry that describes each.

    weights: adapter i belongs to entry i; nothing is copied
    training: how the library was made, as JSON values

    Raises ConfigError when there are not as many entries as adapters, or two of the same task.
    """

    def __init__(
        self,
        weights: LoraWeights,
        entries: Sequence[LibraryEntry],
        *,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        if len(entries) != weights.num_adapters:
            raise ConfigError(f"{len(entries)} entries for {weights.num_adapters} adapters")
        self.weights = weights
        self.entries = tuple(entries)
        self.training: dict[str, Any] = dict(training or {})
        self._places = _places(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def spec(self) -> LoraSpec:
        """The spec that all adapters share."""
        return self.weights.spec

    @property
    def names(self) -> list[str]:
        """Names of the tasks, in the order of the adapters."""
        return [entry.task for entry in self.entries]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the spec and of every task's name and adapter, in hexadecimal."""
        hashes = [
            entry.hash or hash_adapter(weights)
            for entry, weights in zip(self.entries, self.weights.unbind(), strict=True)
        ]
        return content_hash(
            {"spec": self.spec.to_dict(), "adapters": list(zip(self.names, hashes, strict=True))}
        )

    def entry(self, task: str) -> LibraryEntry:
        """The entry of a task's adapter.

        Raises ConfigError when there is no such task.
        """
        return self.entries[self._place(task)]

    def adapter(self, task: str) -> LoraWeights:
        """One task's adapter; a view.

        Raises ConfigError when there is no such task.
        """
        return self._take([self._place(task)])

    def select(self, tasks: Sequence[str]) -> Self:
        """The library of these tasks, in this order; neighbours in order are a view, not a copy.

        Raises ConfigError when there is none, one is unknown, or one is named twice.
        """
        if not tasks:
            raise ConfigError("no tasks selected; name at least one")
        places = [self._place(task) for task in tasks]
        entries = [self.entries[place] for place in places]
        return type(self)(self._take(places), entries, training=self.training)

    def mean(self) -> LoraWeights:
        """Element-wise mean of the factors: one adapter, the paper's average LoRA."""
        dtype = torch.promote_types(self.weights.dtype, torch.float32)  # of the sum
        return self.weights.map(lambda t: t.mean(0, keepdim=True, dtype=dtype).to(t.dtype))

    def _place(self, task: str) -> int:
        if task not in self._places:
            near = difflib.get_close_matches(task, self._places, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ConfigError(
                f"the library has no task {task!r}{hint}; it has {len(self)}: {list_some(self.names)}"
            )
        return self._places[task]

    def _take(self, places: list[int]) -> LoraWeights:
        if places == list(range(places[0], places[0] + len(places))):
            return self.weights.narrow(places[0], len(places))
        return self.weights.select(places)


def save_library(
    library: AdapterLibrary,
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a library as a folder, whole or not at all.

    dtype: of the file; None keeps that of the weights

    Raises SpecError when an adapter has numbers that are not finite, ConfigError when `path` exists
    without `overwrite` or cannot be written.
    """
    return write_library(
        path,
        library.spec,
        library.entries,
        library.weights.unbind(),
        dtype=dtype or library.weights.dtype,
        training=library.training,
        overwrite=overwrite,
    )


def write_library(
    path: Path | str,
    spec: LoraSpec,
    entries: Sequence[LibraryEntry],
    adapters: Iterable[LoraWeights],
    *,
    dtype: torch.dtype,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    check_replaced: Callable[[], None] = lambda: None,
) -> Path:
    """Write adapters that come one by one as a library, so that only one is in memory.

    adapters: one for each entry, in order, each of this spec
    check_replaced: as in `write_folder`

    Raises as `save_library` does, ConfigError when entries name a task twice, and SpecError when an
    adapter has another spec.
    """
    if dtype not in _DTYPES:
        allowed = ", ".join(map(str, _DTYPES))
        raise ConfigError(f"a library is not written as {dtype}; choose one of {allowed}")
    _places(entries)
    offsets, header = _layout(spec, len(entries), dtype)
    written = []
    with write_folder(path, overwrite=overwrite, check_replaced=check_replaced) as folder:
        with (folder / LIBRARY_FILE).open("wb") as stream:
            stream.write(header)
            for index, (entry, weights) in enumerate(zip(entries, adapters, strict=True)):
                if weights.spec != spec or weights.num_adapters != 1:
                    raise SpecError(
                        f"the adapter of {entry.task!r} is not one of the library's spec"
                    )
                weights = weights.detach().to(device="cpu", dtype=dtype)
                if find_not_finite(dict(_named(weights))):
                    raise SpecError(
                        f"the adapter of {entry.task!r} holds NaN or infinity as {dtype}; "
                        "make it again or leave it out"
                    )
                for name, tensor in _named(weights):
                    content = _bytes(tensor)
                    stream.seek(len(header) + offsets[name] + index * len(content))
                    stream.write(content)
                written.append(replace(entry, hash=hash_adapter(weights)))
        index_fields = _Index(
            format=FORMAT,
            version=VERSION,
            dtype=str(dtype).removeprefix("torch."),
            spec=spec.to_dict(),
            adapters=written,
            training=dict(training or {}),
        )
        write_json(folder / INDEX_FILE, asdict(index_fields))
    return Path(path)


def load_library(
    path: Path | str, *, base_config: PreTrainedConfig | None = None, skip_bad: bool = False
) -> AdapterLibrary:
    """Read a library; its tensors stay in the file and are paged in where they are used.

    base_config: configuration of the base model that the adapters must be for
    skip_bad: leave adapters with a wrong hash or numbers that are not finite out, with a T2LWarning
        each; without it the first of them is an error

    Raises AdapterFormatError when the folder is no library, is broken, or no adapter is left;
    SpecError when its spec is, or it is for another base than `base_config`.
    """
    folder = Path(path)
    index, entries = _read_index(folder)
    spec = LoraSpec.from_dict(index.spec)
    if base_config is not None:
        spec.check_base(base_config)
    tensors = load_tensors(folder / LIBRARY_FILE, AdapterFormatError)
    if problems := find_differences(_shapes(spec, len(entries)), tensors, index.dtype):
        raise AdapterFormatError(
            f"{str(folder / LIBRARY_FILE)!r} does not fit {INDEX_FILE}: {'; '.join(problems)}; "
            "copy or make it again"
        )
    a, b = ({g.key: tensors[f"{side}.{g.key}"] for g in spec.groups} for side in "AB")
    library = AdapterLibrary(LoraWeights(spec, a, b), entries, training=index.training)
    good = []
    for entry, adapter in zip(entries, library.weights.unbind(), strict=True):
        if (problem := _find_damage(entry, adapter)) is None:
            good.append(entry.task)
            continue
        message = f"library {str(folder)!r}: the adapter of {entry.task!r} {problem}"
        if not skip_bad:
            raise AdapterFormatError(
                f"{message}; make or copy it again, or leave it out with --skip-bad"
            )
        warnings.warn(f"{message}; it is left out", T2LWarning, stacklevel=2)
    if not good:
        raise AdapterFormatError(
            f"library {str(folder)!r} has no adapter left of {len(entries)}; make or copy it again"
        )
    return library if len(good) == len(entries) else library.select(good)


def hash_adapter(weights: LoraWeights) -> str:
    """SHA-256 of one adapter: over its groups by key, first all of A, then of B, in hexadecimal.

    Each tensor counts as its name, a zero byte, and its numbers as they lie in the file.
    """
    digest = hashlib.sha256()
    for name, tensor in _named(weights):
        digest.update(name.encode() + b"\0")
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _named(weights: LoraWeights) -> Iterator[tuple[str, Tensor]]:
    """Tensors under their names in the file, in the order in which they lie there."""
    for side, tensors in (("A", weights.a), ("B", weights.b)):
        for key in sorted(tensors):
            yield f"{side}.{key}", tensors[key]


def _bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory; contiguous ones are not copied."""
    array: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(array)


def _layout(spec: LoraSpec, adapters: int, dtype: torch.dtype) -> tuple[dict[str, int], bytes]:
    """Offset of every tensor in bytes, and the safetensors header that says so.

    Source: the safetensors format: length of the JSON in 8 bytes, JSON padded with spaces to a
    multiple of 8, tensors without gaps.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, int] = {}
    end = 0
    for name, shape in _shapes(spec, adapters).items():
        places[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [places[name], end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return places, len(text).to_bytes(8, "little") + text


def _shapes(spec: LoraSpec, adapters: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the file, in the order in which they lie there."""
    groups = sorted(spec.groups, key=lambda group: group.key)
    shapes: dict[str, tuple[int, ...]] = {}
    for group in groups:
        shapes[f"A.{group.key}"] = (adapters, len(group.layers), spec.rank, group.in_features)
    for group in groups:
        shapes[f"B.{group.key}"] = (adapters, len(group.layers), group.out_features, spec.rank)
    return shapes


def _places(entries: Sequence[LibraryEntry]) -> dict[str, int]:
    """Map the name of every task to the place of its adapter.

    Raises ConfigError when one is there twice.
    """
    places: dict[str, int] = {}
    for place, entry in enumerate(entries):
        if entry.task in places:
            raise ConfigError(
                f"task {entry.task!r} is in the library twice, as adapters {places[entry.task]} "
                f"and {place}; names must differ"
            )
        places[entry.task] = place
    return places


def _read_index(folder: Path) -> tuple[_Index, list[LibraryEntry]]:
    if not folder.is_dir():
        raise AdapterFormatError(f"{str(folder)!r} is not a folder; give the library's folder")
    file = folder / INDEX_FILE
    payload = read_json(file, AdapterFormatError)
    check_format(payload, file, name=FORMAT, version=VERSION, error=AdapterFormatError)
    index = from_json(_Index, payload, repr(str(file)), AdapterFormatError)
    try:
        entries = [
            from_json(LibraryEntry, entry, f"adapter {place}", ConfigError)
            for place, entry in enumerate(index.adapters)
        ]
        _places(entries)
    except ConfigError as error:
        raise AdapterFormatError(f"{str(file)!r}: {error}") from None
    return index, entries


def _find_damage(entry: LibraryEntry, weights: LoraWeights) -> str | None:
    """What is wrong with the tensors of an adapter that was read; None where nothing is."""
    if find_not_finite(dict(_named(weights))):
        return "holds NaN or infinity"
    actual_hash = hash_adapter(weights)
    if actual_hash != entry.hash:
        stored = list_some([entry.hash[:12] or "none"])
        return f"has hash {actual_hash[:12]}, not {stored}: its bytes have changed"
    return None
