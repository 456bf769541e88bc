"""Specs with slots of unlike shapes, and small random hypernetworks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from text_to_lora.encoders import load_encoder
from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups

HEADS = ("joint", "shared", "rank")
EMBEDDING_DIM = 32  # of the download-free encoder

# Two widths under one name, out > in and in > out, a module of some layers only, layer 1 left out.
SLOTS = [
    Slot(0, "self_attn.q_proj", 12, 20),
    Slot(2, "self_attn.q_proj", 12, 28),
    Slot(3, "self_attn.q_proj", 12, 20),
    *(Slot(layer, "self_attn.v_proj", 12, 6) for layer in (0, 2, 3)),
    Slot(2, "mlp.down_proj", 18, 12),
]


@pytest.fixture(scope="session")
def spec() -> LoraSpec:
    """Rank 3 on slots of four shapes."""
    base = BaseModelRef("owner/base", "abc123", "0" * 64, "llama")
    return LoraSpec(base, "model.layers", 4, 3, 6.0, True, tuple(make_groups(SLOTS)))


@pytest.fixture(scope="session")
def gemma4_spec() -> LoraSpec:
    """Rank 2 on every linear module of a tiny Gemma 4, whose attention has two shapes."""
    config = transformers.Gemma4TextConfig(
        vocab_size=61,
        vocab_size_per_layer_input=61,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=24,
        layer_types=["sliding_attention", "full_attention"],
    )
    return LoraSpec.from_config(config, targets="all-linear", rank=2)


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> str:
    """Each head in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def fresh() -> Callable[..., Hypernetwork]:
    """Build a hypernetwork as it starts training, in eval mode."""

    def build(head: str, spec: LoraSpec, **changes: Any) -> Hypernetwork:
        sizes: dict[str, Any] = {"latent_size": 16, "head_in_size": 24}
        config = HypernetConfig(
            head=head,  # type: ignore[arg-type]
            embedding_dim=EMBEDDING_DIM,
            **sizes | changes,
        )
        return Hypernetwork.from_config(config, spec, torch.Generator().manual_seed(1)).eval()

    return build


@pytest.fixture(scope="session")
def trained(fresh: Callable[..., Hypernetwork]) -> Callable[..., Hypernetwork]:
    """Build one whose parameters are all random, as after training."""

    def build(head: str, spec: LoraSpec, **changes: Any) -> Hypernetwork:
        hypernet = fresh(head, spec, **changes)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for tensor in hypernet.state_dict().values():
                tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
        return hypernet

    return build


@pytest.fixture
def embeddings(generator: torch.Generator) -> torch.Tensor:
    """Three task embeddings [tasks, embedding_dim]."""
    return torch.randn(3, EMBEDDING_DIM, generator=generator)


@pytest.fixture(scope="session")
def encoder() -> EncoderConfig:
    """Of the download-free encoder."""
    return load_encoder("hash").config
