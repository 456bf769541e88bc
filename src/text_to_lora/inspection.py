"""What a folder holds: an adapter or a hypernetwork, for which base, how large, where from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_to_lora.errors import AdapterFormatError, ConfigError
from text_to_lora.files import read_json


def describe(path: Path | str) -> dict[str, Any]:
    """Facts about an adapter's or a hypernetwork's folder, as JSON values; its weights are read.

    Raises ConfigError when it is neither, AdapterFormatError or CheckpointError when it is broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a folder; give an adapter's or hypernetwork's")
    if (folder / "adapter_config.json").is_file():
        facts = _adapter(folder)
    elif (folder / "config.json").is_file() or (folder / "hypermod.pt").is_file():
        facts = _hypernet(folder)
    else:
        raise ConfigError(
            f"{str(folder)!r} holds neither adapter_config.json nor config.json; "
            "give an adapter's or a hypernetwork's folder"
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {**facts, "bytes": size}


def _adapter(folder: Path) -> dict[str, Any]:
    from text_to_lora.lora.peft_config import read_adapter_config
    from text_to_lora.lora.peft_format import PROVENANCE_FILE, WEIGHTS_FILE, read_tensors

    config = read_adapter_config(folder)
    tensors = read_tensors(folder)
    if broken := [name for name, tensor in sorted(tensors.items()) if not tensor.isfinite().all()]:
        raise AdapterFormatError(
            f"{str(folder / WEIGHTS_FILE)!r} has NaN or infinity in {broken[0]}; copy or make it again"
        )
    provenance = folder / PROVENANCE_FILE
    return {
        "kind": "adapter",
        "base": config.get("base_model_name_or_path"),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "rslora": bool(config.get("use_rslora")),
        "targets": config["target_modules"],
        "modules": sum(name.endswith("lora_A.weight") for name in tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "dtype": sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}),
        "provenance": read_json(provenance, AdapterFormatError) if provenance.is_file() else None,
    }


def _hypernet(folder: Path) -> dict[str, Any]:
    from text_to_lora.hypernet.checkpoint import load_hypernet

    loaded = load_hypernet(folder)
    spec = loaded.hypernet.spec
    return {
        "kind": "hypernetwork",
        "base": spec.base.name,
        "base_config": spec.base.config_hash,
        "head": loaded.hypernet.config.head,
        "rank": spec.rank,
        "scaling": spec.scaling,
        "targets": [group.key for group in spec.groups],
        "layers": len({slot.layer for slot in spec.slots}),
        "parameters": sum(p.numel() for p in loaded.hypernet.parameters()),
        "adapter_parameters": spec.num_parameters,
        "encoder": loaded.encoder.name,
        "fingerprint": loaded.fingerprint,
        "training": loaded.training,
    }
