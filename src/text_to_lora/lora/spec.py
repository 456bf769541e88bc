"""LoraSpec: what all adapters of one base model share: base, rank, scaling and ordered slots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from text_to_lora.errors import SpecError
from text_to_lora.fields import check_fields, check_positive, from_json
from text_to_lora.lora.identity import BaseModelRef, accepted_hashes, base_model_ref, config_hash
from text_to_lora.lora.outline import ModelOutline, Slot, find_slots
from text_to_lora.lora.peft_selection import exact_names

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LISTS = ("groups", "transposed", "peft_targets")


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
        check_fields(self, "spec", SpecError)
        check_positive(self, ("rank", "alpha"), "spec", SpecError)
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
            PEFT cannot load an adapter on or the model does not call (see `outline`). Embeddings,
            the output head and vision or audio towers lie outside the decoder layers and are never
            targets.
        layers: layers to adapt, counted from 0; None for all
        name, revision: of the base model; None reads them from `config`

        Raises SpecError for a model type without causal language model, an unknown target (with
        the nearest that exists), a layer out of range, fused or routed experts, and a target that
        cannot carry an adapter, with the reason.
        """
        outline = ModelOutline.from_config(config)
        return cls.from_outline(
            outline,
            find_slots(outline, targets, layers),
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
        """Number of parameters of one adapter."""
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

    def with_(self, **changes: Any) -> Self:
        """The same slots with another `rank`, `alpha` or `rslora`."""
        return replace(self, **changes)

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
        return self.base.config_hash in accepted_hashes(config)

    def check_base(self, config: PreTrainedConfig) -> None:
        """Check that a base model is of the kind that this spec was built for.

        Raises SpecError when its configuration hash differs, also from those of earlier releases.
        """
        if not self.is_for(config):
            raise SpecError(
                f"adapter is for base {self.base.name or 'unnamed'!r} ({self.base.model_type}, "
                f"config {self.base.config_hash[:12]}); this base is "
                f"{getattr(config, 'name_or_path', '') or 'unnamed'!r} ({config.model_type}, "
                f"config {config_hash(config)[:12]}); load the base that the adapter was made for"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, which `from_dict` reads."""
        payload: dict[str, Any] = asdict(self)
        for group in payload["groups"]:
            group["layers"] = list(group["layers"])
        return payload | {name: list(payload[name]) for name in _LISTS}

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Read the form that `to_dict` writes.

        Raises SpecError naming each field that is missing, unknown or of the wrong type.
        """
        return from_json(cls, payload, "spec", SpecError)


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
