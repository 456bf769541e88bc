"""A base and adapters are told from others, and not from themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.identity import check_signature, signature_of
from text_to_lora.lora.weights import LoraWeights


def test_adapters_are_told_by_one_changed_tensor_and_not_by_rounding(
    base: PreTrainedModel, adapters: Callable[..., LoraWeights]
) -> None:
    weights = adapters(base, 2)
    identity = signature_of(weights)
    rounded = [number * (1 + 1e-6) for number in identity]
    check_signature(Path("x"), identity, rounded)
    check_signature(Path("x"), signature_of(None), [])
    swapped = adapters(base, 2)
    tensor = next(iter(swapped.b.values()))
    tensor.copy_(tensor.flip(0))  # the same numbers, each adapter the other's
    for other in (signature_of(swapped), [], signature_of(adapters(base, 2, seed=1))):
        with pytest.raises(ConfigError, match="'x' was scored with other adapters; delete it or"):
            check_signature(Path("x"), identity, other)
