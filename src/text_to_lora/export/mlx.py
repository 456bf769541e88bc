"""Adapter folders of mlx-lm, in both directions; the package mlx is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from text_to_lora.errors import AdapterFormatError, SpecError, shorten
from text_to_lora.files import read_json, write_folder, write_json
from text_to_lora.lora.identity import base_model_ref
from text_to_lora.lora.outline import ModelOutline
from text_to_lora.lora.peft_config import CONFIG_FILE
from text_to_lora.lora.peft_format import check_tensors, read_tensors
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHTS_FILE: Final = "adapters.safetensors"

# Types of bases that mlx-lm runs as transformers names their modules.
_SUPPORTED: Final = (
    "gemma2",
    "gemma3",
    "gemma3_text",
    "llama",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
)
_SCALE_DIGITS: Final = 12  # alpha = scale * rank and back may differ in the last of 16 digits


def write_adapter(
    weights: LoraWeights,
    path: Path | str,
    base_config: PreTrainedConfig,
    *,
    overwrite: bool = False,
) -> Path:
    """Write one adapter as a folder that mlx-lm loads, in the dtype of the weights; see `export_adapter`.

    mlx-lm multiplies by one factor, `scale`, which is the scaling of the spec, rsLoRA or not.
    """
    spec = weights.spec
    layers_path = _layers_path(spec.base.model_type)
    tensors: dict[str, Tensor] = {}
    for group in spec.groups:
        for index, layer in enumerate(group.layers):
            name = f"{layers_path}.{layer}.{group.module}"
            for side, factors in (("a", weights.a), ("b", weights.b)):
                factor = factors[group.key][0, index].detach().cpu()
                tensors[f"{name}.lora_{side}"] = factor.T.contiguous()  # [in, rank], [rank, out]
    with write_folder(path, overwrite=overwrite) as folder:
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "mlx"})
        write_json(folder / CONFIG_FILE, _adapter_config(spec, layers_path))
    return Path(path)


def is_mlx_folder(path: Path) -> bool:
    """Whether a folder holds the adapter of mlx-lm, not of PEFT."""
    return (path / WEIGHTS_FILE).is_file()


def read_mlx_config(path: Path | str) -> dict[str, Any]:
    """Read adapter_config.json of mlx-lm and check what kind of adapter it is.

    Raises AdapterFormatError when it is missing or broken, when the adapter is no LoRA, or when
    rank or scale are no numbers above 0.
    """
    folder = Path(path)
    config = read_json(folder / CONFIG_FILE, AdapterFormatError)
    place = repr(str(folder))
    fine_tune_type = config.get("fine_tune_type", "lora")
    if fine_tune_type != "lora":
        raise AdapterFormatError(
            f"{place} has fine_tune_type={shorten(fine_tune_type)}, which plain LoRA cannot represent; "
            "only 'lora' is read"
        )
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise AdapterFormatError(
            f"{place} has lora_parameters={shorten(parameters)}; an object with rank and scale is needed"
        )
    rank, scale = parameters.get("rank"), parameters.get("scale")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterFormatError(f"{place} has rank={shorten(rank)}; an integer above 0 is needed")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1e6:
        raise AdapterFormatError(
            f"{place} has scale={shorten(scale)}; a number above 0 and at most 1e+06 is needed"
        )
    return config


def load_mlx_adapter(path: Path | str, base_config: PreTrainedConfig) -> LoraWeights:
    """Read an adapter folder of mlx-lm into one adapter, in the dtype of its file.

    base_config: of the base model, which gives the shapes; the name is that of adapter_config.json

    Raises AdapterFormatError when the folder is no LoRA adapter for linear modules of this base;
    what is missing, left over or of another shape is named.
    """
    folder = Path(path)
    config = read_mlx_config(folder)
    rank = config["lora_parameters"]["rank"]
    tensors = read_tensors(folder, WEIGHTS_FILE)
    model_name = config.get("model")
    base = base_model_ref(base_config, name=model_name if isinstance(model_name, str) else None)
    layers_path = _layers_path(base.model_type)
    outline = ModelOutline.from_config(base_config)
    slots = {f"{layers_path}.{slot.layer}.{slot.module}": slot for slot in outline.slots}
    slots = {name: slot for name, slot in slots.items() if f"{name}.lora_a" in tensors}
    shapes: dict[str, tuple[int, int]] = {}
    for name, slot in slots.items():
        shapes[f"{name}.lora_a"] = (slot.in_features, rank)
        shapes[f"{name}.lora_b"] = (rank, slot.out_features)
    check_tensors(folder, shapes, tensors)
    alpha = config["lora_parameters"]["scale"] * rank
    spec = LoraSpec.from_outline(
        outline, [*slots.values()], base=base, rank=rank, alpha=alpha, rslora=False
    )
    # A [1, slots, rank, in] and B [1, slots, out, rank] by group
    sides: dict[str, dict[str, Tensor]] = {"a": {}, "b": {}}
    for group in spec.groups:
        for side, stacked in sides.items():
            names = [f"{layers_path}.{layer}.{group.module}.lora_{side}" for layer in group.layers]
            stacked[group.key] = torch.stack([tensors[name].T for name in names])[None]
    return LoraWeights(spec, sides["a"], sides["b"])


def _layers_path(model_type: str) -> str:
    """Path of the decoder layers in mlx-lm's model; SpecError when the type is not supported."""
    if model_type not in _SUPPORTED:
        raise SpecError(
            f"adapters for a base of type {model_type!r} cannot be exchanged with MLX; supported "
            f"are {', '.join(_SUPPORTED)}; merge the adapter into its base with `t2l merge` instead"
        )
    return "language_model.model.layers" if model_type == "gemma3" else "model.layers"


def _adapter_config(spec: LoraSpec, layers_path: str) -> dict[str, Any]:
    """What mlx-lm reads: which modules get LoRA, of which rank and scale."""
    layers = {group.layers for group in spec.groups}
    first = min(min(group.layers) for group in spec.groups)
    if layers == {tuple(range(first, spec.num_layers))}:  # the same modules of the last layers
        keys = [group.module for group in spec.groups]
        num_layers = spec.num_layers - first
    else:
        keys = [f"{layers_path}.{slot.layer}.{slot.module}" for slot in spec.slots]
        num_layers = spec.num_layers
    return {
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": 0.0,
            "keys": keys,
            "rank": spec.rank,
            "scale": float(f"{spec.scaling:.{_SCALE_DIGITS}g}"),
        },
        "model": spec.base.name,
        "num_layers": num_layers,
    }
