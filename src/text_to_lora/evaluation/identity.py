"""What tells one base, or one set of adapters, from another without hashing all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.files import content_hash
from text_to_lora.lora.identity import config_hash
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAME_WEIGHTS = 1e-4  # relative; threads and BLAS differ by 1e-6, one step of training by more


def base_identity(base: PreTrainedModel) -> dict[str, Any]:
    """Give what tells one base from another: configuration, norms of its vectors, dtype."""
    scales = {
        name: round(float(parameter.detach().double().norm()), 4)
        for name, parameter in base.named_parameters()
        if parameter.ndim == 1
    }
    dtype = str(base.dtype).removeprefix("torch.")
    return {
        "config": config_hash(base.config),
        "vectors": content_hash(scales),
        **({} if dtype == "float32" else {"dtype": dtype}),
    }


def signature_of(weights: LoraWeights | None) -> list[float]:
    """Give numbers that differ between different adapters: norm and projection of each tensor."""
    if weights is None:
        return []
    numbers = []
    for tensor in (*weights.a.values(), *weights.b.values()):
        flat = tensor.detach().double().flatten()
        ramp = torch.arange(len(flat), dtype=torch.float64, device=flat.device).cos()
        numbers += [float(flat.norm()), float(flat @ ramp)]
    return numbers


def check_signature(path: Path, earlier: Sequence[float], now: Sequence[float]) -> None:
    """Check that a file's answers were given with the adapters of now.

    Raises ConfigError when the signatures differ by more than rounding.
    """
    size = max((abs(number) for number in earlier), default=0.0)
    if len(earlier) != len(now) or any(
        abs(old - new) > SAME_WEIGHTS * size for old, new in zip(earlier, now, strict=True)
    ):
        raise ConfigError(
            f"{str(path)!r} was scored with other adapters; delete it or choose another folder"
        )
