"""t2l inspect: what a folder holds, for which base, how large, where from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from text_to_lora.cli.common import AsJson, echo_json
from text_to_lora.errors import ConfigError


def inspect(
    path: Annotated[str, typer.Argument(help="Adapter or hypernetwork folder, or 'embedded'.")],
    as_json: AsJson = False,
) -> None:
    """Say what an adapter or a hypernetwork is.

    Example:

      t2l inspect review
    """
    from text_to_lora.serving.sources import find_hypernet

    folder = find_hypernet("embedded") if path == "embedded" else Path(path)
    facts = describe(folder)
    if as_json:
        echo_json(facts)
        return
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        typer.echo(f"{key:12} {shown}")


def describe(folder: Path) -> dict[str, Any]:
    """Facts about an adapter's or a hypernetwork's folder; its tensors are read and checked.

    Raises ConfigError when it is neither, AdapterFormatError or CheckpointError when it is broken.
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a folder; give an adapter's or hypernetwork's")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if (folder / "adapter_config.json").is_file():
        return {**_adapter(folder), "bytes": size}
    if (folder / "config.json").is_file():
        return {**_hypernet(folder), "bytes": size}
    raise ConfigError(
        f"{str(folder)!r} holds neither adapter_config.json nor config.json; "
        "give an adapter's or a hypernetwork's folder"
    )


def _adapter(folder: Path) -> dict[str, Any]:
    from text_to_lora.files import read_json
    from text_to_lora.lora.peft_format import read_adapter_config, read_tensors

    config = read_adapter_config(folder)
    tensors = read_tensors(folder)
    provenance = folder / "provenance.json"
    return {
        "kind": "adapter",
        "base": config.get("base_model_name_or_path"),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "rslora": bool(config.get("use_rslora")),
        "targets": config["target_modules"],
        "modules": len(tensors) // 2,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "dtype": ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})),
        **({"provenance": read_json(provenance)} if provenance.is_file() else {}),
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
        "training": dict(loaded.training),
    }
