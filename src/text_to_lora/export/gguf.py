"""GGUF files of llama.cpp: one adapter, with the tensor names and the order of rows of its bases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import SpecError, list_some, needs_extra
from text_to_lora.files import write_file
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedConfig

    Array = np.ndarray[Any, np.dtype[np.float32]]

# Model type of transformers -> architecture of the package gguf. Source: `convert_hf_to_gguf.py` of
# llama.cpp, which names these classes the same.
_ARCHITECTURES: Final[Mapping[str, str]] = {
    "gemma2": "GEMMA2",
    "gemma3": "GEMMA3",
    "gemma3_text": "GEMMA3",
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "phi3": "PHI3",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
}
# Architectures whose query and key rows llama.cpp orders by rotary pairs.
_ROTARY_PAIRS: Final = frozenset({"LLAMA"})


def write_adapter(
    weights: LoraWeights,
    path: Path | str,
    base_config: PreTrainedConfig,
    *,
    overwrite: bool = False,
) -> Path:
    """Write one adapter as a GGUF file for llama.cpp, in float32; see `export_adapter`.

    The scaling is folded into B and alpha is the rank, so that the factor of every reader is 1.

    Raises ConfigError when the package gguf is missing or `path` exists, also with `overwrite`.
    """
    tensors = name_tensors(weights, base_config)
    write_file(
        path, lambda temporary: write_gguf(temporary, tensors, weights.spec), overwrite=False
    )
    return Path(path)


def name_tensors(weights: LoraWeights, base_config: PreTrainedConfig) -> dict[str, Array]:
    """Factors of one adapter by their names in a GGUF file: A [rank, in] and B [out, rank].

    Raises SpecError for a base of another type than the supported, and modules that llama.cpp has no
    tensor for; ConfigError when the package gguf is missing.
    """
    spec = weights.spec
    architecture = _architecture(spec)
    names = _tensor_names(spec, architecture)
    text = base_config.get_text_config(decoder=True)
    num_heads = {
        "self_attn.q_proj": text.num_attention_heads,
        "self_attn.k_proj": text.num_key_value_heads,
    }
    tensors: dict[str, Array] = {}
    for group in spec.groups:
        for index, layer in enumerate(group.layers):
            a = weights.a[group.key][0, index].detach().float()
            b = weights.b[group.key][0, index].detach().float() * spec.scaling
            if architecture in _ROTARY_PAIRS and group.module in num_heads:
                # rows i and i + half of a head become rows 2 i and 2 i + 1
                halves = b.reshape(num_heads[group.module], 2, -1, spec.rank)
                b = halves.transpose(1, 2).reshape(b.shape)
            name = names[layer, group.module]
            tensors[f"{name}.weight.lora_a"] = a.cpu().contiguous().numpy()
            tensors[f"{name}.weight.lora_b"] = b.cpu().contiguous().numpy()
    return tensors


def write_gguf(path: Path, tensors: Mapping[str, Array], spec: LoraSpec) -> None:
    """Write named factors of a spec as a GGUF file."""
    gguf = _import_gguf()
    architecture = getattr(gguf.MODEL_ARCH, _architecture(spec))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(spec.rank))
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _architecture(spec: LoraSpec) -> str:
    """Name of the base's architecture in the package gguf; SpecError when it is not supported."""
    model_type = spec.base.model_type
    if model_type not in _ARCHITECTURES:
        raise SpecError(
            f"a base of type {model_type!r} cannot be exported to GGUF; supported are "
            f"{', '.join(_ARCHITECTURES)}; merge the adapter into its base with `t2l merge` instead"
        )
    return _ARCHITECTURES[model_type]


def _tensor_names(spec: LoraSpec, architecture: str) -> dict[tuple[int, str], str]:
    """Name of the base's tensor for each slot, by layer and module path, without ".weight"."""
    gguf = _import_gguf()
    tensor_map = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture), spec.num_layers)
    names = {
        (slot.layer, slot.module): tensor_map.get_name(f"model.layers.{slot.layer}.{slot.module}")
        for slot in spec.slots
    }
    if unknown := sorted({module for (_, module), name in names.items() if name is None}):
        raise SpecError(
            f"llama.cpp has no tensor for {list_some(unknown)} in a base of type "
            f"{spec.base.model_type!r}; leave these modules out of the adapter"
        )
    return names


def _import_gguf() -> Any:
    with needs_extra("export", "a GGUF export"):
        import gguf
    return gguf
