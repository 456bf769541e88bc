"""LoraSpec: what all adapters of one base model share: base, rank, scaling and ordered slots."""

from __future__ import annotations

import copy
import difflib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from text_to_lora.errors import SpecError, T2LWarning, list_some
from text_to_lora.files import content_hash
from text_to_lora.lora.outline import ModelOutline, Slot, is_decoder_half, language_part
from text_to_lora.lora.peft_selection import ALL_LINEAR, exact_names

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SHAPE_KEY: Final = re.compile(
    r"size|dim|layer|head|expert|rank|embd|inner|d_model|ffn|mlp|moe|k_eq_v|is_decoder"
)
_NOT_SHAPE: Final = frozenset({"chunk_size_feed_forward"})


@dataclass(frozen=True)
class BaseModelRef:
    """Which base model an adapter is for.

    name: hub name or path, "" when unknown; revision: hub commit; config_hash: see `config_hash`
    """

    name: str
    revision: str | None
    config_hash: str
    model_type: str


@dataclass(frozen=True)
class Group:
    """Slots of equal path and shape; `key` is the path, with the shape when a path has several."""

    key: str
    module: str
    in_features: int
    out_features: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class LoraSpec:
    """Base model, rank, scaling and ordered slots of an adapter; decided here and nowhere else.

    layers_path: path of the decoder layers in the model that AutoModelForCausalLM loads
    num_layers: decoder layers of the base model, adapted or not
    alpha: LoRA numerator; scaling = alpha / rank, or alpha / sqrt(rank) with `rslora`
    groups: sorted by module path, then shape
    transposed: module paths whose weight is stored [in, out] (GPT-2's Conv1D)
    peft_targets: names that PEFT's suffix matching resolves to these slots and no other module of
        the base; empty when unknown, then `save_adapter` writes a regular expression

    Raises SpecError when a field cannot work.
    """

    base: BaseModelRef
    layers_path: str
    num_layers: int
    rank: int
    alpha: float
    rslora: bool
    groups: tuple[Group, ...]
    transposed: tuple[str, ...] = ()
    peft_targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise SpecError(f"rank is {self.rank!r}; an integer of 1 or more is needed")
        if not (isinstance(self.alpha, int | float) and math.isfinite(self.alpha)) or (
            self.alpha <= 0
        ):
            raise SpecError(f"alpha is {self.alpha!r}; a finite number above 0 is needed")
        object.__setattr__(self, "alpha", float(self.alpha))
        if not self.groups:
            raise SpecError("a spec without target modules; name at least one")
        if list(self.groups) != make_groups(self.slots):
            raise SpecError("groups are not the sorted groups of their slots; build them by layer")
        for group in self.groups:
            if not 0 <= group.layers[0] <= group.layers[-1] < self.num_layers:
                raise SpecError(
                    f"group {group.key!r} has layers {group.layers}; the base has {self.num_layers}"
                )

    @classmethod
    def from_config(
        cls,
        config: PreTrainedConfig,
        *,
        targets: str | Sequence[str],
        rank: int = 8,
        alpha: float = 16.0,
        rslora: bool = False,
        layers: Sequence[int] | None = None,
        name: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Build the spec from a base model's configuration alone; no weights are read.

        targets: leaf names ("q_proj"), paths below a layer ("self_attn.q_proj"), or "all-linear":
            every linear module of the decoder layers except routers, routed experts and those that
            PEFT cannot load an adapter on or the model does not call (see `refusals`). Embeddings,
            the output head and vision or audio towers lie outside the decoder layers and are never
            targets.
        layers: layers to adapt, counted from 0; None for all
        name, revision: of the base model; None reads them from `config`

        Raises SpecError for a model type without causal language model, an unknown target (with
        the nearest that exists), a layer out of range, fused or routed experts, and a target that
        cannot carry an adapter, with the reason.
        """
        outline = ModelOutline.from_config(config)
        chosen = _check_layers(layers, outline.num_layers)
        modules = _resolve_targets(outline, targets, chosen)
        slots = [
            slot
            for slot in outline.slots
            if slot.module in modules
            and slot.layer in chosen
            and (slot.layer, slot.module) not in outline.refused
        ]
        return cls.from_outline(
            outline,
            slots,
            base=base_model_ref(config, name=name, revision=revision),
            rank=rank,
            alpha=alpha,
            rslora=rslora,
        )

    @classmethod
    def from_outline(
        cls,
        outline: ModelOutline,
        slots: Sequence[Slot],
        *,
        base: BaseModelRef,
        rank: int,
        alpha: float,
        rslora: bool,
    ) -> Self:
        """Build the spec of exactly these slots of a base model."""
        used = {slot.module for slot in slots}
        spec = cls(
            base=base,
            layers_path=outline.layers_path,
            num_layers=outline.num_layers,
            rank=rank,
            alpha=alpha,
            rslora=rslora,
            groups=tuple(make_groups(slots)),
            transposed=tuple(sorted(used & outline.transposed)),
        )
        return replace(
            spec, peft_targets=exact_names(spec, outline.names, by_path=bool(outline.rewritten))
        )

    @property
    def scaling(self) -> float:
        """Factor of B A in ΔW."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, layer-major; within a layer in group order."""
        return tuple(
            Slot(layer, group.module, group.in_features, group.out_features)
            for layer in sorted({layer for group in self.groups for layer in group.layers})
            for group in self.groups
            if layer in group.layers
        )

    @property
    def num_parameters(self) -> int:
        """Numbers in one adapter."""
        return sum(self.rank * (slot.in_features + slot.out_features) for slot in self.slots)

    def group(self, key: str) -> Group:
        """The group of this key.

        Raises SpecError when there is none.
        """
        for group in self.groups:
            if group.key == key:
                return group
        keys = ", ".join(group.key for group in self.groups)
        raise SpecError(f"no group {key!r}; groups are {keys}")

    def with_(
        self, *, rank: int | None = None, alpha: float | None = None, rslora: bool | None = None
    ) -> Self:
        """The same slots with another rank, alpha or kind of scaling."""
        return replace(
            self,
            rank=self.rank if rank is None else rank,
            alpha=self.alpha if alpha is None else alpha,
            rslora=self.rslora if rslora is None else rslora,
        )

    def with_rank(self, rank: int) -> Self:
        """The same slots and the same scaling at another rank (alpha follows)."""
        alpha = self.scaling * (math.sqrt(rank) if self.rslora else rank)
        return self.with_(rank=rank, alpha=alpha)

    def module_name(self, layer: int, module: str) -> str:
        """Full path of a module in the base model."""
        return f"{self.layers_path}.{layer}.{module}"

    def peft_name(self, layer: int, module: str) -> str:
        """Prefix of a slot's tensors in a PEFT file."""
        return f"base_model.model.{self.module_name(layer, module)}"

    def is_for(self, config: PreTrainedConfig) -> bool:
        """Whether a base model is of the kind that this spec was built for."""
        return self.base.config_hash in (config_hash(config), *_earlier_hashes(config))

    def check_base(self, config: PreTrainedConfig) -> None:
        """Check that a base model is of the kind that this spec was built for.

        Raises SpecError when its configuration hash differs, also from those of earlier releases.
        """
        if not self.is_for(config):
            found = config_hash(config)
            raise SpecError(
                f"adapter is for base {self.base.name or 'unnamed'!r} ({self.base.model_type}, "
                f"config {self.base.config_hash[:12]}); this base is "
                f"{getattr(config, 'name_or_path', '') or 'unnamed'!r} ({config.model_type}, "
                f"config {found[:12]}); load the base that the adapter was made for"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` reverses it."""
        payload: dict[str, Any] = asdict(self)
        payload["groups"] = [
            group | {"layers": list(group["layers"])} for group in payload["groups"]
        ]
        payload["transposed"] = list(self.transposed)
        payload["peft_targets"] = list(self.peft_targets)
        return payload

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Read the form that `to_dict` writes.

        Raises SpecError naming each field that is missing, unknown or of the wrong type.
        """
        _check_fields(cls, payload, "spec")
        _check_fields(BaseModelRef, payload["base"], "spec.base")
        for group in payload["groups"]:
            _check_fields(Group, group, "spec.groups")
        return cls(
            **{
                **payload,
                "base": BaseModelRef(**payload["base"]),
                "groups": tuple(
                    Group(**{**group, "layers": tuple(group["layers"])})
                    for group in payload["groups"]
                ),
                "transposed": tuple(payload["transposed"]),
                "peft_targets": tuple(payload["peft_targets"]),
            }
        )


def base_model_ref(
    config: PreTrainedConfig, *, name: str | None = None, revision: str | None = None
) -> BaseModelRef:
    """Reference to the base model of a configuration; None reads the field from it."""
    return BaseModelRef(
        name=str(getattr(config, "name_or_path", "") or "") if name is None else name,
        revision=getattr(config, "_commit_hash", None) if revision is None else revision,
        config_hash=config_hash(config),
        model_type=language_part(config)[0],
    )


def config_hash(config: PreTrainedConfig) -> str:
    """SHA-256 of the model type and the shape-giving fields of a (text) configuration.

    Counted are the integers, names, true flags and lists of them under keys about sizes, widths,
    heads, layers and experts, the vocabulary included. Left out, since they change no shape: names,
    versions, dtype, token ids, dropout, attention implementation, window and rotary settings. A
    field that a later transformers adds with None or False leaves the hash as it was.

    The configuration of a folder and that of the causal language model made of it have one hash,
    also where that model takes the text part or the decoder alone.
    """
    return _hash_fields(*language_part(config))


def _earlier_hashes(config: PreTrainedConfig) -> Iterator[str]:
    """Hashes of a base in files of earlier releases: that of its folder, or that of the model."""
    yield _hash_fields(config.model_type, config.get_text_config(decoder=True))
    _, text = language_part(config)
    for suffix in ("", "_text", "_text_model"):  # of the part's model type, after that of the whole
        yield _hash_fields(text.model_type.removesuffix(suffix), text)
    if is_decoder_half(config):
        decoder = copy.deepcopy(config)
        decoder.is_encoder_decoder = False
        yield _hash_fields(config.model_type, decoder)
        decoder.is_decoder = True
        yield _hash_fields(config.model_type, decoder)


def _hash_fields(model_type: str, text: PreTrainedConfig) -> str:
    content: dict[str, Any] = {"model_type": model_type}
    for key, value in text.to_dict().items():
        counted = _SHAPE_KEY.search(key) and key not in _NOT_SHAPE and not key.startswith("_")
        if counted and _is_shape_value(value):
            content[key] = value
    return content_hash(content)


def make_groups(slots: Iterable[Slot]) -> list[Group]:
    """Slots gathered into groups of equal path and shape, sorted by path, then shape."""
    layers: dict[tuple[str, int, int], list[int]] = {}
    for slot in slots:
        shape = (slot.module, slot.in_features, slot.out_features)
        layers.setdefault(shape, []).append(slot.layer)
    paths = [path for path, _, _ in layers]
    return [
        Group(
            key=path if paths.count(path) == 1 else f"{path}:{width_in}x{width_out}",
            module=path,
            in_features=width_in,
            out_features=width_out,
            layers=tuple(sorted(layers[path, width_in, width_out])),
        )
        for path, width_in, width_out in sorted(layers)
    ]


def _check_layers(layers: Sequence[int] | None, num_layers: int) -> frozenset[int]:
    if layers is None:
        return frozenset(range(num_layers))
    chosen = frozenset(layers)
    wrong = sorted(layer for layer in chosen if not 0 <= layer < num_layers)
    if wrong or not chosen or len(chosen) != len(layers):
        raise SpecError(
            f"layers are {list(layers)}; distinct numbers from 0 to {num_layers - 1} are needed"
        )
    return chosen


def _resolve_targets(
    outline: ModelOutline, targets: str | Sequence[str], layers: frozenset[int]
) -> frozenset[str]:
    """Module paths meant by the targets, each checked to exist in the chosen layers."""
    names = [targets] if isinstance(targets, str) else list(targets)
    available = {slot.module for slot in outline.slots if slot.layer in layers}
    refused = _refused_paths(outline, layers)
    resolved: set[str] = set()
    for target in names:
        if target == ALL_LINEAR:
            resolved |= available - outline.routers - refused.keys()
            continue
        found = {path for path in available if _ends_with(path, target)}
        found = _without_refused(target, found, refused, available)
        experts = [
            path
            for path in outline.experts
            if _ends_with(path, target) or f".{path}.".find(f".{target}.") >= 0
        ]
        if experts and not found:
            raise SpecError(
                f"target {target!r} means expert parameters ({', '.join(experts)}), which cannot "
                f"carry one adapter per row; choose from {_listing(available)}"
            )
        if experts:
            warnings.warn(
                f"target {target!r} adapts {_listing(found)} but not the experts "
                f"{', '.join(experts)}, which cannot carry one adapter per row",
                T2LWarning,
                stacklevel=4,
            )
        if not found:
            raise SpecError(_unknown_target(target, available, outline))
        resolved |= found
    return frozenset(resolved)


def _refused_paths(outline: ModelOutline, layers: frozenset[int]) -> dict[str, str]:
    """Paths that cannot carry an adapter in any of the chosen layers, and why."""
    chosen = [slot for slot in outline.slots if slot.layer in layers]
    free = {slot.module for slot in chosen if (slot.layer, slot.module) not in outline.refused}
    return {
        slot.module: outline.refused[slot.layer, slot.module]
        for slot in chosen
        if slot.module not in free
    }


def _without_refused(
    target: str, found: set[str], refused: Mapping[str, str], available: set[str]
) -> set[str]:
    """The paths of a target that can carry an adapter; those that cannot are told."""
    cannot = sorted(found & refused.keys())
    if cannot and found <= refused.keys():
        raise SpecError(
            f"target {target!r} means {list_some(cannot)}, which cannot carry an adapter: "
            f"{refused[cannot[0]]}; choose from {_listing(available - refused.keys())}"
        )
    if cannot:
        warnings.warn(
            f"target {target!r} adapts {_listing(found - refused.keys())} but not "
            f"{list_some(cannot)}: {refused[cannot[0]]}",
            T2LWarning,
            stacklevel=5,
        )
    return found - refused.keys()


def _unknown_target(target: str, available: set[str], outline: ModelOutline) -> str:
    elsewhere = [slot.layer for slot in outline.slots if _ends_with(slot.module, target)]
    if elsewhere:
        return f"target {target!r} is not in the chosen layers; it is in layers {elsewhere}"
    by_name = {path.rpartition(".")[2]: path for path in sorted(available)}
    by_name |= {path: path for path in sorted(available)}
    near = difflib.get_close_matches(target, list(by_name), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no target module {target!r}{hint}; this model has {_listing(available)}"


def _ends_with(path: str, suffix: str) -> bool:
    return path == suffix or path.endswith(f".{suffix}")


def _listing(paths: Iterable[str]) -> str:
    return ", ".join(sorted(paths))


def _is_shape_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_shape_value(item) for item in value)
    return value is True or (isinstance(value, int | str) and value is not False)


def _check_fields(owner: type, payload: Any, place: str) -> None:
    """Check keys and plain types of one JSON object against a dataclass."""
    if not isinstance(payload, Mapping):
        raise SpecError(f"{place} is a {type(payload).__name__}; an object is needed")
    expected = {field.name: str(field.type) for field in fields(owner)}
    if problems := sorted(set(expected) ^ set(payload)):
        state = ", ".join(
            f"{'missing' if key in expected else 'unknown'} {key}" for key in problems
        )
        raise SpecError(f"{place} has wrong fields: {state}; it was written by another version")
    for key, annotation in expected.items():
        if not _FIELD_KINDS[annotation](payload[key]):
            raise SpecError(f"{place}.{key} is {payload[key]!r}; {annotation} is needed")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(kind, value))


def _instance_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


# Check of a JSON value for each annotation that the dataclasses of a spec use.
_FIELD_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "str": _instance_of(str),
    "str | None": _instance_of(str, type(None)),
    "bool": _instance_of(bool),
    "int": _is_int,
    "float": lambda value: isinstance(value, float) or _is_int(value),
    "BaseModelRef": _instance_of(Mapping),
    "tuple[Group, ...]": _list_of(_instance_of(Mapping)),
    "tuple[int, ...]": _list_of(_is_int),
    "tuple[str, ...]": _list_of(_instance_of(str)),
}
