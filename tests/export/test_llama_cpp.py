"""Exports on llama.cpp itself: the logits and the answers are those of the adapter under PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from text_to_lora.export.gguf import export_adapter
from text_to_lora.lora import adapted

pytestmark = pytest.mark.engines


def write_base(model: PreTrainedModel, file: Path) -> None:
    """Write a tiny base as a GGUF file in float32, without a vocabulary."""
    config: Any = model.config.get_text_config()
    family = config.model_type
    name = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // 4
    writer = gguf.GGUFWriter(file, name)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if family == "phi3":
        writer.add_sliding_window(0)
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for path, parameter in model.named_parameters():
        if "vision" in path or "multi_modal" in path:
            continue
        key = path.replace("model.language_model.", "model.").removesuffix(".weight")
        tensor = parameter.detach()
        if family.startswith("gemma") and path.endswith("norm.weight"):
            tensor = tensor + 1
        heads = {"q_proj": 4, "k_proj": 2}.get(key.rpartition(".")[2].removesuffix(".bias"))
        if name == "llama" and heads:
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        target = names.get_name(key, try_suffixes=(".bias",))
        assert target is not None, path
        suffix = "" if path.endswith(".bias") else ".weight"
        writer.add_tensor(target + suffix, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_logits_of_every_family_are_those_of_the_adapter_in_torch(
    config: PreTrainedConfig, kit: Any, llama_cpp: Callable[..., Any], tmp_path: Path
) -> None:
    model = kit.model(config)
    weights = kit.weights(config)
    write_base(model, tmp_path / "base.gguf")
    file = export_adapter(weights, tmp_path / "adapter.gguf", config)
    with torch.no_grad():
        plain = model(kit.ids).logits[0, -1]
        with adapted(model, weights):
            expected = model(kit.ids).logits[0, -1]
    engine = llama_cpp(tmp_path / "base.gguf")
    ids = kit.ids[0].tolist()
    base_error = (engine.logits(ids) - plain).abs().max()
    with engine.adapted(file):
        error = (engine.logits(ids) - expected).abs().max()
    restored = (engine.logits(ids) - plain).abs().max()
    effect = (expected - plain).abs().max()
    print(f"{config.model_type}: {base_error=:.2g} {error=:.2g} {effect=:.2g}")
    assert restored == base_error
    # llama.cpp looks GELU up in a table of half precision
    assert max(base_error, error) < 5e-3
    assert effect > 0.5
