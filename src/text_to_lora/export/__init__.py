"""Adapters as the files of other engines: one module a format, each with a function `export_adapter`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from text_to_lora.errors import ConfigError, SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from text_to_lora.lora.weights import LoraWeights

FORMATS: Final = ("gguf", "mlx", "ollama", "peft")  # each is a module of this package


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
    return cast(ExportAdapter, import_module(f"{__name__}.{name}").export_adapter)


def check_adapter(weights: LoraWeights) -> None:
    """Raise SpecError when these are several adapters, or their numbers are not finite."""
    if weights.num_adapters != 1:
        raise SpecError(
            f"{weights.num_adapters} adapters for one export; export each of weights.unbind()"
        )
    weights.check_finite()


def refuse_engine_base(name: str | None, format_name: str) -> None:
    """Raise ConfigError when a base is named in a format that names none."""
    if name is not None:
        raise ConfigError(
            f"a {format_name} export does not name its base, so that {name!r} has no place in it; "
            "leave the name out"
        )
