"""A tiny base that reads 512 tokens, adapters of texts, and ten rows of our own a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from tiny_models import make_config, make_tokenizer

ROWS = Path(__file__).with_name("rows")


@pytest.fixture(scope="session")
def rows_dir() -> Path:
    return ROWS


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def base() -> PreTrainedModel:
    torch.manual_seed(0)
    config = make_config()
    config.max_position_embeddings = 512
    return LlamaForCausalLM(config).eval()


def adapters_of(base: PreTrainedModel, texts: Sequence[str]) -> LoraWeights:
    """One strong adapter a text; equal texts give equal adapters."""
    spec = LoraSpec.from_config(base.config, targets=["q_proj", "v_proj"], rank=2)
    made = []
    for text in texts:
        seed = int(sha256(text.encode()).hexdigest()[:8], 16)
        generator = torch.Generator().manual_seed(seed)
        a = {
            g.key: torch.randn(1, len(g.layers), spec.rank, g.in_features, generator=generator)
            for g in spec.groups
        }
        b = {
            g.key: torch.randn(1, len(g.layers), g.out_features, spec.rank, generator=generator)
            for g in spec.groups
        }
        made.append(LoraWeights(spec, a, b))
    return LoraWeights.stack(made)
