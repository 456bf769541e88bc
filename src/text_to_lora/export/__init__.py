"""Adapters as the files of other engines, one module an engine, and as PEFT folders."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import ConfigError, SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from text_to_lora.lora.weights import LoraWeights

FORMATS: Final = ("gguf", "mlx", "ollama", "peft")  # all but peft are modules of this package


def check_format(name: str) -> None:
    """Raise ConfigError when there is no such format."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")


def export_adapter(
    weights: LoraWeights,
    path: Path | str,
    base_config: PreTrainedConfig,
    *,
    to: str,
    overwrite: bool = False,
    engine_base: str | None = None,
) -> Path:
    """Write one adapter as the files of an engine, whole or not at all; gives their path.

    base_config: of the base model that the adapter is for
    to: one of FORMATS
    overwrite: replace a folder that `check_output` lets be replaced; a file is never replaced
    engine_base: how the engine names the base model; None where the format does not name it

    Raises SpecError when the engine cannot run the adapter, before anything is written;
    ConfigError when `path` exists or cannot be written, or an option cannot work.
    """
    check_format(to)
    if engine_base is not None and to != "ollama":
        raise ConfigError(
            f"an export to {to} does not name its base, so that {engine_base!r} has no place in "
            "it; leave the name out"
        )
    if weights.num_adapters != 1:
        raise SpecError(
            f"{weights.num_adapters} adapters for one export; export each of weights.unbind()"
        )
    weights.check_finite()
    if to == "peft":
        from text_to_lora.lora.peft_format import save_adapter

        return save_adapter(weights, path, scale_safe=False, overwrite=overwrite)
    options: dict[str, Any] = {"engine_base": engine_base} if to == "ollama" else {}
    written: Path = import_module(f"{__name__}.{to}").write_adapter(
        weights, path, base_config, overwrite=overwrite, **options
    )
    return written
