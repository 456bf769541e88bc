"""Llama-like bases as GGUF files, written as llama.cpp's own converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
from torch import Tensor
from transformers import PreTrainedModel

ROTARY_PAIRS = ("llama", "mistral")
"""Types whose query and key rows llama.cpp orders by rotary pairs."""


def write_gguf(
    model: PreTrainedModel,
    file: Path,
    architecture: str,
    describe: Callable[[gguf.GGUFWriter], None],
    quantisation: Callable[[str], gguf.GGMLQuantizationType] = lambda name: (
        gguf.GGMLQuantizationType.F32
    ),
) -> None:
    """Write a base; `describe` adds the fields beyond sizes, `quantisation` is that of a tensor."""
    config: Any = model.config.get_text_config()
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    describe(writer)
    for name, tensor in _tensors(model, architecture):
        raw_dtype = quantisation(name)
        writer.add_tensor(name, gguf.quantize(tensor.numpy(), raw_dtype), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their names in the GGUF format."""
    config: Any = model.config.get_text_config()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    key = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    for path, parameter in model.named_parameters():
        if "vision" in path or "multi_modal" in path:
            continue
        module, _, suffix = path.replace("model.language_model.", "model.").rpartition(".")
        tensor = parameter.detach()
        if config.model_type.startswith("gemma") and path.endswith("norm.weight"):
            tensor = tensor + 1
        num_heads = heads.get(module.rpartition(".")[2])
        if config.model_type in ROTARY_PAIRS and num_heads:  # the halves of each head interleaved
            halves = tensor.unflatten(0, (num_heads, 2, -1))
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        name = names.get_name(module)
        assert name is not None, path
        yield f"{name}.{suffix}", tensor.contiguous()
