"""The parts of a base model that matter to adapters, read from its class on the meta device.

Also which of its linear modules can carry an adapter, and which of them the names of targets mean.
"""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import nn

from text_to_lora.errors import SpecError, T2LWarning, first_line, list_some
from text_to_lora.lora.peft_selection import ALL_LINEAR

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Routers choose experts; an adapter on one is never meant by "all-linear".
_ROUTERS: Final = frozenset({"gate", "router", "shared_expert_gate"})
# Below this name lie the routed experts: fused 3-D parameters, or modules that see shuffled tokens.
_EXPERTS: Final = "experts"
# Where transformers 5 fuses the routed experts, PEFT takes these names for theirs, wherever they
# stand: it drops them from the modules to adapt, and warns of missing keys at most.
# The keys are those of transformers' own table of model types that are converted alike.
# Source: peft 0.21, utils.transformers_weight_conversion._MOE_TARGET_MODULE_MAPPING.
_REWRITTEN: Final[Mapping[str, frozenset[str]]] = {
    "mixtral": frozenset({"gate", "w1", "w2", "w3"}),
    "qwen2_moe": frozenset({"gate", "gate_proj", "up_proj", "down_proj"}),
}
# PEFT renames the tensors of these to names that the model does not have.
_RENAMED: Final[Mapping[str, str]] = {"laguna": "shared_experts"}
# Source: peft 0.21, tuners.tuners_utils._check_lora_target_modules_mamba.
_MAMBA: Final = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_REFUSED_IN_MAMBA: Final = frozenset({"out_proj", "conv1d"})

# Names on the path of modules that some or all of the code of a model does not call: it hands
# their weights to a kernel, or reads them in training alone. Found by dry runs of the models of
# transformers 5.24, and by reading what its fused kernels take.
_READ_BY_WEIGHT: Final[Mapping[str, frozenset[str]]] = {
    "bamba": frozenset({"mamba.out_proj"}),
    "falcon_mamba": frozenset({"mixer.dt_proj", "mixer.x_proj"}),
    "gemma3n_text": frozenset({"altup.correction_coefs"}),
    "granitemoehybrid": frozenset({"mamba.out_proj"}),
    "jamba": frozenset({"mamba.dt_proj"}),
    "mamba": frozenset({"mixer.dt_proj", "mixer.x_proj"}),
    "zamba2": frozenset({"mamba.out_proj", "gate_up_proj_adapter_list"}),
}
# A linear module in name; it multiplies groups of its input by parts of its weight.
_GROUPED: Final[Mapping[str, frozenset[str]]] = {"deepseek_v4": frozenset({"self_attn.o_a_proj"})}
# Attention to an encoder, which a causal language model alone does not have.
_CROSS_ATTENTION: Final = frozenset({"encoder_attn", "cross_attn", "crossattention"})


@dataclass(frozen=True)
class Slot:
    """One place of an adapter: a layer, counted from 0, and a module path below that layer."""

    layer: int
    module: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class ModelOutline:
    """The parts of a base model that matter to adapters, read from the meta device.

    slots: every linear module of the decoder layers that can carry an adapter, layer-major
    routers: paths of routers; experts: paths of fused or routed experts, which are refused
    names: full path of every module of the whole model
    refused: (layer, path) of the slots that an adapter cannot be on -> why
    rewritten: last names of modules that PEFT takes for routed experts, wherever they stand
    """

    layers_path: str
    num_layers: int
    slots: tuple[Slot, ...]
    transposed: frozenset[str]
    routers: frozenset[str]
    experts: tuple[str, ...]
    names: tuple[str, ...]
    refused: Mapping[tuple[int, str], str]
    rewritten: frozenset[str]

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> Self:
        """Read the outline from the model class, which is built on the meta device.

        Raises SpecError when AutoModelForCausalLM has no class for it, or no decoder layers show.
        """
        model = build_meta_model(config)
        names = tuple(name for name, _ in model.named_modules() if name)
        layers_path, layers = _find_layers(model, config)
        owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
        rewritten = rewritten_names(str(model.config.model_type))
        refused: dict[tuple[int, str], str] = {}
        slots: list[Slot] = []
        transposed: set[str] = set()
        routers: set[str] = set()
        experts: set[str] = set()
        for index, layer in enumerate(layers):
            for path, module in layer.named_modules():
                parts = path.split(".")
                for parameter_name, parameter in module.named_parameters(recurse=False):
                    if parameter.ndim == 3 and parameter_name != "weight":
                        experts.add(f"{path}.{parameter_name}")
                shape = linear_shape(module)
                if shape is None:
                    continue
                if _EXPERTS in parts:
                    experts.add(re.sub(r"\.\d+\.", ".*.", path))
                    continue
                slots.append(Slot(index, path, *shape))
                if reason := _refusal(model.config, index, path, rewritten=rewritten):
                    refused[index, path] = reason
                elif owners[id(module.get_parameter("weight"))] > 1:
                    refused[index, path] = "it shares its weight with another module"
                if not isinstance(module, nn.Linear):
                    transposed.add(path)
                if _ROUTERS.intersection(parts):
                    routers.add(path)
        return cls(
            layers_path=layers_path,
            num_layers=len(layers),
            slots=tuple(slots),
            transposed=frozenset(transposed),
            routers=frozenset(routers),
            experts=tuple(sorted(experts)),
            names=names,
            refused=refused,
            rewritten=rewritten,
        )


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in_features, out_features) of a Linear or Conv1D, quantised ones included, else None."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # transformers'; not imported for this alone
        rows, columns = module.get_parameter("weight").shape
        return rows, columns
    return None


def language_part(config: PreTrainedConfig) -> tuple[str, PreTrainedConfig]:
    """Model type and configuration of the decoder that AutoModelForCausalLM makes of a base.

    The result is the same for the configuration of the base's folder and for that of the model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    if is_decoder_half(config):  # the model says in two fields that it is one; the folder does not
        config = copy.deepcopy(config)
        config.is_encoder_decoder = bool(type(config).is_encoder_decoder)
        config.is_decoder = False
    text = config.get_text_config(decoder=True)
    takes_all = str(CLASSES.get(config.model_type)).endswith("ForConditionalGeneration")
    return str((config if takes_all else text).model_type), text


def is_decoder_half(config: PreTrainedConfig) -> bool:
    """Whether the causal language model is the decoder of a pair, as BART's and Whisper's."""
    return hasattr(config, "decoder_layers") or hasattr(config, "num_decoder_layers")


def rewritten_names(model_type: str) -> frozenset[str]:
    """Last names of modules that PEFT takes for routed experts in models of this type."""
    from transformers import conversion_mapping

    alike: Mapping[str, str] = getattr(conversion_mapping, "_MODEL_TO_CONVERSION_PATTERN", {})
    kind = "mixtral" if model_type == "mixtral" else alike.get(model_type, "")
    return _REWRITTEN.get(kind, frozenset())


def build_meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of a configuration on the meta device, without numbers.

    Raises SpecError when there is no such model.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    build: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_config
    config = copy.deepcopy(config)
    if config.model_type.endswith("_text_model"):  # known as a part of Mllama or Emu3 alone
        whole: Any = CONFIG_MAPPING[config.model_type.removesuffix("_text_model")]
        config = whole(text_config=config.to_dict())
    try:
        with torch.device("meta"):
            model = build(config, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:  # the code of a model says in many ways what it cannot do
        raise SpecError(
            f"no causal language model for configuration {config.model_type!r}: {first_line(error)}"
        ) from error
    return model


def _find_layers(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder layers: the largest module list of the text model's depth."""
    text = config.get_text_config(decoder=True)
    depths = (getattr(config, name, None) for name in ("decoder_layers", "num_decoder_layers"))
    depth = next(filter(None, depths), None) or getattr(text, "num_hidden_layers", None)
    get_decoder: Callable[[], nn.Module] = model.get_decoder
    decoder = get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    candidates = [
        (sum(parameter.numel() for parameter in module.parameters()), name, module)
        for name, module in decoder.named_modules(prefix=prefix)
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not candidates:
        raise SpecError(
            f"{type(model).__name__} shows no list of {depth or 'a known number of'} decoder layers; "
            "this model family is not supported"
        )
    _, path, layers = max(candidates, key=lambda item: item[0])
    return path, layers


def _refusal(
    config: PreTrainedConfig, layer: int, path: str, *, rewritten: frozenset[str]
) -> str | None:
    """Why a linear module of a decoder layer cannot carry an adapter; None when it can.

    config: of the loaded causal language model; path: of the module below the layer
    rewritten: last names of modules that PEFT takes for routed experts
    """
    kind = str(config.model_type)
    parts = path.split(".")
    if parts[-1] in rewritten:
        return f"PEFT takes that name for the fused experts of {kind}, and drops the adapter"
    if _RENAMED.get(kind) in parts:
        return f"PEFT renames its tensors in {kind}, and drops the adapter"
    if kind in _MAMBA and parts[-1] in _REFUSED_IN_MAMBA:
        return f"PEFT refuses every adapter that has one on it in {kind}"
    image_layers: Any = getattr(config, "cross_attention_layers", None)  # of Mllama
    if isinstance(image_layers, list | tuple) and layer in image_layers:
        return "text skips a layer of cross-attention, and an adapter there would do nothing"
    if _CROSS_ATTENTION.intersection(parts):
        return "without an encoder the model does not call it, and an adapter would do nothing"
    if any(f".{name}." in f".{path}." for name in _READ_BY_WEIGHT.get(kind, ())):
        return f"{kind} reads its weight without calling it, and an adapter would do nothing"
    if path in _GROUPED.get(kind, ()):
        return f"{kind} multiplies groups of its input by parts of its weight"
    return None


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
