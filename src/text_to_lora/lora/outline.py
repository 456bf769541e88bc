"""The parts of a base model that matter to adapters, read from its class on the meta device."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import nn

from text_to_lora.errors import SpecError, first_line
from text_to_lora.lora.refusals import REWRITTEN, refusal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Routers choose experts; an adapter on one is never meant by "all-linear".
_ROUTERS: Final = frozenset({"gate", "router", "shared_expert_gate"})
# Below this name lie the routed experts: fused 3-D parameters, or modules that see shuffled tokens.
_EXPERTS: Final = "experts"


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
                if reason := refusal(model.config, index, path, rewritten=rewritten):
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
    return REWRITTEN.get(kind, frozenset())


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
