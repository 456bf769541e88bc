"""PEFT folders: what adapters of other engines become, with A, B and alpha as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from text_to_lora.export import refuse_engine_base
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def export_adapter(
    weights: LoraWeights,
    path: Path | str,
    base_config: PreTrainedConfig,
    *,
    overwrite: bool = False,
    engine_base: str | None = None,
) -> Path:
    """Write a PEFT folder without folding the scaling into B; see `ExportAdapter`."""
    refuse_engine_base(engine_base, "PEFT")
    return save_adapter(weights, path, scale_safe=False, overwrite=overwrite)
