"""PEFT folder <-> LoraWeights; what is written is minimal, sorted and equal byte for byte."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError, list_some, shorten
from text_to_lora.files import write_folder, write_json
from text_to_lora.lora.identity import base_model_ref
from text_to_lora.lora.outline import ModelOutline
from text_to_lora.lora.peft_config import CONFIG_FILE, read_adapter_config
from text_to_lora.lora.peft_selection import PeftSelection, selecting_fields
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.tensors import find_differences, find_not_finite, load_tensors
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WEIGHTS_FILE: Final = "adapter_model.safetensors"
PROVENANCE_FILE: Final = "provenance.json"

_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_TENSOR_NAME: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def save_adapter(
    weights: LoraWeights,
    path: Path | str,
    *,
    scale_safe: bool = True,
    dtype: torch.dtype | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one adapter as a PEFT folder, whole or not at all.

    scale_safe: fold the scaling into B and write alpha = rank without rsLoRA, so that readers that
        ignore alpha or rsLoRA get the same ΔW; False keeps A, B, alpha and rsLoRA as they are
    dtype: of the file; None keeps that of the weights
    provenance: written beside as provenance.json

    Raises SpecError for several adapters or numbers that are not finite, ConfigError when `path`
    exists without `overwrite` or cannot be written.
    """
    if weights.num_adapters != 1:
        raise SpecError(
            f"{weights.num_adapters} adapters for one folder; save each of weights.unbind()"
        )
    dtype = dtype or weights.dtype
    spec = weights.spec
    factor = spec.scaling if scale_safe else 1.0
    tensors: dict[str, Tensor] = {}
    for group in spec.groups:
        for index, layer in enumerate(group.layers):
            prefix = spec.peft_name(layer, group.module)
            a = weights.a[group.key][0, index].detach()
            b = weights.b[group.key][0, index].detach().float() * factor
            tensors[f"{prefix}.lora_A.weight"] = a.to("cpu", dtype, copy=True).contiguous()
            tensors[f"{prefix}.lora_B.weight"] = b.to("cpu", dtype).contiguous()
    if broken := find_not_finite(tensors):
        raise SpecError(
            f"NaN or infinity in {list_some(broken)} as {dtype}; make the adapter again"
        )
    with write_folder(path, overwrite=overwrite) as folder:
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, _adapter_config(spec, scale_safe=scale_safe))
        if provenance is not None:
            write_json(folder / PROVENANCE_FILE, provenance)
    return Path(path)


def load_adapter(
    path: Path | str, *, spec: LoraSpec | None = None, base_config: PreTrainedConfig | None = None
) -> LoraWeights:
    """Read a PEFT folder into one adapter, in the dtype of its file.

    spec: of the result; the folder must have its slots and rank, and B is rescaled where the
        folder's scaling is another, so that ΔW stays that of the folder
    base_config: configuration of the base model, from which the spec is built when none is given

    Raises AdapterFormatError when the folder is not a LoRA adapter that fits exactly; tensors that
    are missing, left over or of another shape are named. Raises ConfigError without `spec` and
    `base_config`.
    """
    folder = Path(path)
    config = read_adapter_config(folder)
    tensors = read_tensors(folder)
    if spec is None:
        if base_config is None:
            raise ConfigError(
                f"{str(folder)!r} does not hold the shapes of its base; give spec or base_config"
            )
        spec = _spec_of_folder(folder, config, tensors, base_config)
    else:
        _check_selection(folder, config, spec)
    if config["r"] != spec.rank:
        raise AdapterFormatError(
            f"{str(folder)!r} has rank {config['r']}; rank {spec.rank} is expected"
        )
    check_tensors(folder, _tensor_shapes(spec), tensors)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    ratio = scaling / spec.scaling
    a, b = {}, {}
    for group in spec.groups:
        names = [spec.peft_name(layer, group.module) for layer in group.layers]
        a[group.key] = torch.stack([tensors[f"{name}.lora_A.weight"] for name in names])[None]
        stacked = torch.stack([tensors[f"{name}.lora_B.weight"] for name in names])[None]
        b[group.key] = stacked if math.isclose(ratio, 1.0, rel_tol=1e-12) else stacked * ratio
    return LoraWeights(spec, a, b)


def read_modules(folder: Path, rank: int) -> frozenset[str]:
    """Full paths of the modules that a PEFT folder has LoRA tensors of this rank for.

    Raises AdapterFormatError when its tensors cannot be read or are of another rank.
    """
    modules = set()
    for name, tensor in read_tensors(folder).items():
        if match := _TENSOR_NAME.fullmatch(name):
            modules.add(match["module"])
            side = 0 if match["side"] == "A" else -1
            if tensor.ndim != 2 or tensor.shape[side] != rank:
                raise AdapterFormatError(
                    f"{str(folder)!r} has r={rank}, but {list_some([name])} is "
                    f"{tuple(tensor.shape)}; copy it again"
                )
    return frozenset(modules)


def _adapter_config(spec: LoraSpec, *, scale_safe: bool) -> dict[str, Any]:
    # PEFT types alpha as an integer; whole numbers are written as such.
    alpha = int(spec.alpha) if spec.alpha.is_integer() else spec.alpha
    config: dict[str, Any] = {
        "base_model_name_or_path": spec.base.name or None,
        "bias": "none",
        "fan_in_fan_out": bool(spec.transposed),
        "inference_mode": True,
        "lora_alpha": spec.rank if scale_safe else alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": spec.rank,
        "task_type": "CAUSAL_LM",
        "use_rslora": spec.rslora and not scale_safe,
    } | selecting_fields(spec, spec.peft_targets)
    if spec.base.revision is not None:
        config["revision"] = spec.base.revision
    return config


def read_tensors(folder: Path, file_name: str = WEIGHTS_FILE) -> dict[str, Tensor]:
    """Read the tensors of an adapter's folder, of a dtype that adapters are computed in.

    file_name: of the file with the tensors; the default is PEFT's

    Raises AdapterFormatError when there are none, or they are a pickle, truncated, corrupt or of a
    dtype such as float8 or integers.
    """
    file = folder / file_name
    tensors = load_tensors(file, AdapterFormatError)
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in _DTYPES:
            raise AdapterFormatError(
                f"{str(file)!r} has dtype {tensor.dtype} in {list_some([name])}; "
                f"save it in one of {', '.join(str(dtype) for dtype in _DTYPES)}"
            )
    return tensors


def _spec_of_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    base_config: PreTrainedConfig,
) -> LoraSpec:
    """The spec of the slots that a folder selects in a base model."""
    outline = ModelOutline.from_config(base_config)
    slots = {f"{outline.layers_path}.{slot.layer}.{slot.module}": slot for slot in outline.slots}
    selected = PeftSelection(config, repr(str(folder))).select(slots)
    selected_slots = [slot for name, slot in slots.items() if name in selected]
    adapted = {match["module"] for name in tensors if (match := _TENSOR_NAME.fullmatch(name))}
    place, base_type = repr(str(folder)), base_config.model_type
    if foreign := sorted(adapted - slots.keys()):
        remedy = (
            "adapters of other modules are not read, so train it again without these"
            if set(foreign) <= set(outline.names)
            else "load it with the base that it was made for"
        )
        raise AdapterFormatError(
            f"{place} adapts {list_some(foreign)}, no linear module of the decoder layers of "
            f"this {base_type} base; {remedy}"
        )
    for slot in selected_slots:
        if reason := outline.refused.get((slot.layer, slot.module)):
            raise AdapterFormatError(
                f"{place} adapts {slot.module!r}, which cannot carry an adapter here: {reason}; "
                "make it again without"
            )
    if not selected_slots:
        raise AdapterFormatError(
            f"{place} has target_modules={shorten(config['target_modules'])}, which selects "
            f"nothing in this {base_type} base; load it with the base it was made for"
        )
    name = config.get("base_model_name_or_path")
    return LoraSpec.from_outline(
        outline,
        selected_slots,
        base=base_model_ref(base_config, name=name or None, revision=config.get("revision")),
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora")),
    )


def _check_selection(folder: Path, config: Mapping[str, Any], spec: LoraSpec) -> None:
    """Check that PEFT would adapt every slot of the spec under the folder's configuration."""
    names = [spec.module_name(slot.layer, slot.module) for slot in spec.slots]
    selected = PeftSelection(config, repr(str(folder))).select(names)
    if missed := [name for name in names if name not in selected]:
        raise AdapterFormatError(
            f"{str(folder)!r} does not select {list_some(missed)} by its target_modules; "
            "load it with the spec that it was made for"
        )


def _tensor_shapes(spec: LoraSpec) -> dict[str, tuple[int, int]]:
    """Shape of every tensor in a PEFT file."""
    shapes = {}
    for slot in spec.slots:
        prefix = spec.peft_name(slot.layer, slot.module)
        shapes[f"{prefix}.lora_A.weight"] = (spec.rank, slot.in_features)
        shapes[f"{prefix}.lora_B.weight"] = (slot.out_features, spec.rank)
    return shapes


def check_tensors(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> None:
    """Check the tensors of an adapter file against the names and shapes that are expected.

    Raises AdapterFormatError that lists all that differs: names, shapes, several dtypes, and values
    that are not finite.
    """
    problems = find_differences(shapes, tensors)
    if not problems and (broken := find_not_finite(tensors)):
        problems.append(f"NaN or infinity in {list_some(broken)}")
    if problems:
        raise AdapterFormatError(
            f"{str(folder)!r} does not fit: {'; '.join(problems)}; "
            "copy it again or load it with the base that it was made for"
        )
