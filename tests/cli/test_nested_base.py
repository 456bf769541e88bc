"""Bases whose folder holds more than the causal language model: every verb takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import LoraSpec
from tiny_models import SPECIAL, make_tokenizer

TEXT: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
BASES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3_5": lambda: transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(
            text_config=TEXT | {"head_dim": 8, "layer_types": ["full_attention", "full_attention"]},
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 32,
            },
        )
    ),
    "mllama": lambda: transformers.MllamaForConditionalGeneration(
        transformers.MllamaConfig(
            text_config=TEXT | {"cross_attention_layers": [], "bos_token_id": 2},
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_global_layers": 1,
                "attention_heads": 2,
                "intermediate_size": 16,
                "vision_output_dim": 32,
                "image_size": 28,
                "patch_size": 14,
                "max_num_tiles": 1,
                "supported_aspect_ratios": [[1, 1]],
                "intermediate_layers_indices": [0],
            },
        )
    ),
}


@pytest.mark.filterwarnings("default")  # the commands show their warnings themselves
@pytest.mark.parametrize("family", BASES)
def test_what_was_trained_for_the_text_part_is_used_with_the_folder(
    t2l: Any, family: str, tmp_path: Path
) -> None:
    base, folder, out = tmp_path / "base", tmp_path / "hypernet", tmp_path / "out"
    torch.manual_seed(0)
    BASES[family]().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    config = AutoConfig.from_pretrained(base)
    part = AutoModelForCausalLM.from_pretrained(base).config
    assert part.model_type != config.model_type
    spec = LoraSpec.from_config(part, targets=["q_proj", "v_proj"], rank=4, name=str(base))
    sizes = HypernetConfig(head="joint", embedding_dim=32, latent_size=16, head_in_size=24)
    hypernet = Hypernetwork.from_config(sizes, spec, torch.Generator().manual_seed(1))
    save_hypernet(folder, hypernet, load_encoder("hash").config, training={})
    assert t2l("generate", "Say yes", "-o", out, "-m", folder).code == 0
    for arguments in (
        ("run", "Say yes", "--input", "a", "-m", folder, "--max-new-tokens", 2),
        ("merge", out, "-o", tmp_path / "merged"),
    ):
        done = t2l(*arguments)
        assert done.code == 0, done.err
    done = t2l("cost", "--base", base, "--head", "rank", "--library-size", 2)
    assert done.code == 0 or "the costs of this architecture are not known" in done.err
    merged = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert merged["model_type"] in (config.model_type, part.model_type)
    done = t2l("run", "Say yes", "-i", "a", "-m", folder, "--base", tmp_path / "merged")
    assert done.code == 0, done.err
    assert replace(spec.base, name="") == replace(
        LoraSpec.from_config(config, targets=["q_proj"]).base, name=""
    )
