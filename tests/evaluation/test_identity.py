"""A base and adapters are told from others, and not from themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.identity import base_identity, check_signature, signature_of
from text_to_lora.lora.weights import LoraWeights


def test_a_base_is_told_by_its_vectors_and_its_dtype(base: PreTrainedModel) -> None:
    identity = base_identity(base)
    assert base_identity(base) == identity
    norm = next(parameter for parameter in base.parameters() if parameter.ndim == 1)
    norm.data += 0.01
    moved = base_identity(base)
    assert moved["config"] == identity["config"] and moved["vectors"] != identity["vectors"]
    assert base_identity(base.to(torch.bfloat16))["dtype"] == "bfloat16"


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
