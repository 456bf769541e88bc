"""Tiny random models of every supported family, and random adapters for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from text_to_lora.lora import LoraSpec, LoraWeights

TOKENS: dict[str, Any] = {
    "vocab_size": 61,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
PLAIN: dict[str, Any] = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
# head_dim times heads is not the hidden size
WIDE: dict[str, Any] = PLAIN | {"head_dim": 16}
MIXED: dict[str, Any] = WIDE | {"layer_types": ["sliding_attention", "full_attention"]}
GEMMA4: dict[str, Any] = MIXED | {
    "global_head_dim": 24,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 61,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**PLAIN),
    "mistral": lambda: transformers.MistralConfig(**WIDE),
    "qwen3": lambda: transformers.Qwen3Config(**WIDE),
    "gemma2": lambda: transformers.Gemma2Config(**MIXED),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**MIXED),
    "gemma3": lambda: transformers.Gemma3Config(text_config=MIXED, vision_config=VISION),
    "gemma4_text": lambda: transformers.Gemma4TextConfig(**GEMMA4),
    "gemma4": lambda: transformers.Gemma4Config(
        text_config=GEMMA4, vision_config=VISION | {"head_dim": 8}
    ),
    "phi3": lambda: transformers.Phi3Config(**PLAIN),
    "gpt2": lambda: transformers.GPT2Config(
        **TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **PLAIN,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
    ),
    "bert": lambda: transformers.BertConfig(
        **{key: value for key, value in PLAIN.items() if key != "num_key_value_heads"},
        is_decoder=True,
    ),
}


def make_config(family: str) -> PreTrainedConfig:
    """Configuration of a tiny model of a family."""
    return FAMILIES[family]()


def make_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Random model of a configuration, in eval mode, as AutoModelForCausalLM builds it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert isinstance(model, PreTrainedModel)
    return model.requires_grad_(False)


def make_weights(spec: LoraSpec, adapters: int = 1, seed: int = 0) -> LoraWeights:
    """Random adapters that change logits clearly; neither A nor B is zero."""
    generator = torch.Generator().manual_seed(seed)
    a, b = {}, {}
    for group in spec.groups:
        slots = (adapters, len(group.layers))
        a[group.key] = torch.randn(*slots, spec.rank, group.in_features, generator=generator) * 0.2
        b[group.key] = torch.randn(*slots, group.out_features, spec.rank, generator=generator) * 0.2
    return LoraWeights(spec, a, b)


def make_batch(rows: int, seq: int = 7, *, side: str = "left") -> dict[str, torch.Tensor]:
    """Random tokens with unlike padding in every row."""
    generator = torch.Generator().manual_seed(5)
    input_ids = torch.randint(3, 61, (rows, seq), generator=generator)
    mask = torch.ones_like(input_ids)
    for row in range(rows):
        padding = row % 3
        if side == "left":
            mask[row, :padding] = 0
        elif padding:
            mask[row, -padding:] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask}


class Kit:
    """The helpers above, for tests of any folder."""

    families = tuple(FAMILIES)
    config = staticmethod(make_config)
    model = staticmethod(make_model)
    weights = staticmethod(make_weights)
    batch = staticmethod(make_batch)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    """Builders of tiny models, adapters and batches."""
    return Kit


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn."""
    return str(request.param)


@pytest.fixture
def llama(kit: type[Kit]) -> PreTrainedModel:
    """A tiny Llama."""
    return kit.model(kit.config("llama"))


@pytest.fixture
def llama_spec(kit: type[Kit]) -> LoraSpec:
    """Rank 4 on q_proj and v_proj of the tiny Llama."""
    return LoraSpec.from_config(
        kit.config("llama"), targets=["q_proj", "v_proj"], rank=4, alpha=6.0
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A path for an adapter that does not exist yet."""
    return tmp_path / "adapter"
