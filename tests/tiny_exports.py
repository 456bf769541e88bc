"""Tiny random bases of every type that is exported, and adapters for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig

import tiny_lora
from text_to_lora.lora import LoraSpec, LoraWeights

PLAIN: dict[str, Any] = tiny_lora.PLAIN | {"tie_word_embeddings": True}
WIDE: dict[str, Any] = PLAIN | {"head_dim": 16}  # heads times head_dim is not the hidden size
GEMMA2: dict[str, Any] = WIDE | {"query_pre_attn_scalar": 16}
# mlx-lm asks for a layer that sees everything, which is the sixth, and rounds the square root of the
# hidden size to bfloat16, which is exact for 64
GEMMA3: dict[str, Any] = GEMMA2 | {"num_hidden_layers": 6, "hidden_size": 64}
VISION: dict[str, Any] = tiny_lora.VISION | {"num_hidden_layers": 1}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**PLAIN),
    "mistral": lambda: transformers.MistralConfig(**WIDE),
    "qwen2": lambda: transformers.Qwen2Config(**PLAIN),
    "qwen3": lambda: transformers.Qwen3Config(**WIDE),
    "gemma2": lambda: transformers.Gemma2Config(**GEMMA2),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**GEMMA3),
    "gemma3": lambda: transformers.Gemma3Config(text_config=GEMMA3, vision_config=VISION),
    "phi3": lambda: transformers.Phi3Config(**PLAIN),
}
IDS = torch.tensor([[5, 17, 3, 42, 8, 29, 11, 60, 23]])
"""Token ids of one prompt [1, seq]."""


def make_weights(config: PreTrainedConfig, *, adapters: int = 1, **options: Any) -> LoraWeights:
    """Random adapters under rsLoRA that change the logits clearly; neither A nor B is zero."""
    options = {"targets": "all-linear", "rank": 6, "alpha": 5.0, "rslora": True} | options
    return tiny_lora.make_weights(LoraSpec.from_config(config, **options), adapters, seed=1)
