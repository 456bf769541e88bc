"""Adapters as the files of other engines, one module an engine, and as PEFT folders."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from text_to_lora.errors import ConfigError, SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from text_to_lora.lora.weights import LoraWeights

FORMATS: Final = ("gguf", "mlx", "ollama", "peft")  # all but peft are modules of this package


class ExportAdapter(Protocol):
    """Writes one adapter as the files of an engine, whole or not at all."""

    def __call__(
        self,
        weights: LoraWeights,
        path: Path | str,
        base_config: PreTrainedConfig,
        *,
        overwrite: bool = False,
        engine_base: str | None = None,
    ) -> Path:
        """Write the adapter and give the path of what was written.

        base_config: of the base model that the adapter is for
        overwrite: replace a folder that `check_output` lets be replaced; a file is never replaced
        engine_base: how the engine names the base model; None where the format does not name it

        Raises SpecError when the engine cannot run the adapter, before anything is written;
        ConfigError when `path` exists or cannot be written, or an option cannot work.
        """
        ...


def find_format(name: str) -> ExportAdapter:
    """The function that exports to a format.

    Raises ConfigError when there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")

    def export_adapter(
        weights: LoraWeights,
        path: Path | str,
        base_config: PreTrainedConfig,
        *,
        overwrite: bool = False,
        engine_base: str | None = None,
    ) -> Path:
        """See `ExportAdapter`."""
        if engine_base is not None and name != "ollama":
            raise ConfigError(
                f"an export to {name} does not name its base, so that {engine_base!r} has no place in "
                "it; leave the name out"
            )
        if weights.num_adapters != 1:
            raise SpecError(
                f"{weights.num_adapters} adapters for one export; export each of weights.unbind()"
            )
        weights.check_finite()
        if name == "peft":
            from text_to_lora.lora.peft_format import save_adapter

            return save_adapter(weights, path, scale_safe=False, overwrite=overwrite)
        options = {"engine_base": engine_base} if name == "ollama" else {}
        write: ExportAdapter = import_module(f"{__name__}.{name}").write_adapter
        return write(weights, path, base_config, overwrite=overwrite, **options)

    return export_adapter
