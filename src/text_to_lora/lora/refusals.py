"""Linear modules that an adapter cannot be on, though they look like any other, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Where transformers 5 fuses the routed experts, PEFT takes these names for theirs, wherever they
# stand: it drops them from the modules to adapt, and warns of missing keys at most.
# The keys are those of transformers' own table of model types that are converted alike.
# Source: peft 0.21, utils.transformers_weight_conversion._MOE_TARGET_MODULE_MAPPING.
REWRITTEN: Final[Mapping[str, frozenset[str]]] = {
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


def refusal(
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
    if layer in _cross_layers(config):
        return "text skips a layer of cross-attention, and an adapter there would do nothing"
    if _CROSS_ATTENTION.intersection(parts):
        return "without an encoder the model does not call it, and an adapter would do nothing"
    if any(f".{name}." in f".{path}." for name in _READ_BY_WEIGHT.get(kind, ())):
        return f"{kind} reads its weight without calling it, and an adapter would do nothing"
    if path in _GROUPED.get(kind, ()):
        return f"{kind} multiplies groups of its input by parts of its weight"
    return None


def _cross_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    """Layers that attend to images alone, and are skipped for text (Mllama)."""
    value: Any = getattr(config, "cross_attention_layers", None)
    return tuple(value) if isinstance(value, list | tuple) else ()
