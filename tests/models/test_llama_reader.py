"""The reader of the default base against transformers' model and tokenizer of the same folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.encoders.base import pad_right
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.token_reader import HookedBase
from text_to_lora.models.base import load_base
from text_to_lora.models.llama_gguf import convert_gguf
from text_to_lora.models.llama_reader import LlamaReader

TEXTS = ("hello, hell", "12 é<|im_end|>\n\tb's", "x")
LINEAR = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)


@pytest.fixture
def folder(gguf_file: Path, tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    convert_gguf(gguf_file, tiny_config, tmp_path)
    return tmp_path


def test_it_reads_what_transformers_reads(folder: Path) -> None:
    reader, model = LlamaReader(folder), HookedBase(*load_base(folder), "model.layers")
    assert reader.end_of_answer == model.end_of_answer
    ids = [reader.tokenize(text) for text in TEXTS]
    assert ids == [model.tokenize(text) for text in TEXTS]
    tokens, mask = pad_right(ids, "cpu")
    assert torch.equal(reader.embed(tokens), model.embed(tokens))
    modules = [(module, layer) for layer in range(2) for module in ("", *LINEAR)]
    with torch.no_grad():
        inputs, expected = (base.inputs(tokens, mask, modules) for base in (reader, model))
    assert inputs.keys() == expected.keys() == set(modules)
    for key in modules:
        torch.testing.assert_close(inputs[key][mask], expected[key][mask], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder_is_named_with_the_way_out(name: str, folder: Path) -> None:
    (folder / name).write_text("{")
    with pytest.raises(ConfigError, match=rf"'{re.escape(str(folder))}' is damaged.* delete"):
        LlamaReader(folder)
