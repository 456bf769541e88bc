"""Llama-like bases as GGUF files, written as llama.cpp's own converter writes them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from text_to_lora.files import file_hash
from text_to_lora.models.smollm2 import PackagedBase
from text_to_lora.models.wheel import PackagedFile, PinnedFile

ROTARY_PAIRS = ("llama", "mistral")
"""Types whose query and key rows llama.cpp orders by rotary pairs."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("h e", "l l", "he ll", "1 2")
TOKENS = (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "hell", "12")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 64,
    "initializer_range": 0.3,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": len(TOKENS),
}
"""Content of the config.json of the tiny Llama."""
MEMBER = "tiny_gguf/tiny.Q4_1.gguf"


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


def save_tiny_gguf(file: Path) -> Path:
    """Write a random Llama of two layers, quantised as SmolLM2's file is."""
    torch.manual_seed(0)
    types = gguf.GGMLQuantizationType

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_name("tiny")
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(list(TOKENS))
        writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
        writer.add_token_merges(list(MERGES))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_chat_template(TEMPLATE)

    def quantisation(name: str) -> gguf.GGMLQuantizationType:
        if "norm" in name:
            return types.F32
        return types.Q8_0 if name.startswith("token_embd") else types.Q4_1

    write_gguf(LlamaForCausalLM(LlamaConfig(**CONFIG)), file, "llama", describe, quantisation)
    return file


def save_wheel(folder: Path, gguf_file: Path) -> Path:
    """Write a wheel that holds a GGUF file, and a module that must never be imported."""
    folder.mkdir()
    wheel, info = folder / "tiny_gguf-1.0-py3-none-any.whl", "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf_file, MEMBER)
        archive.writestr("tiny_gguf/__init__.py", "raise AssertionError('imported')")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def package(wheel: Path, gguf_file: Path) -> PackagedBase:
    """The tiny Llama as the file of a wheel, both pinned as they are."""
    pins = (_pin(wheel, wheel.name), _pin(gguf_file, MEMBER))
    return PackagedBase("me/tiny", "tiny-1", PackagedFile("tiny-gguf", "1.0", *pins), CONFIG, "")


def _pin(file: Path, name: str) -> PinnedFile:
    return PinnedFile(name, file.stat().st_size, file_hash(file))
