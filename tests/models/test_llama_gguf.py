from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from text_to_lora.errors import ConfigError
from text_to_lora.models.base import load_base
from text_to_lora.models.llama_gguf import convert_gguf


@pytest.fixture(scope="module")
def folder(
    gguf_file: Path, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(gguf_file, tiny_config, folder)
    return folder


def test_logits_are_those_of_the_model_that_transformers_reads(
    folder: Path, gguf_file: Path
) -> None:
    load: Any = AutoModelForCausalLM.from_pretrained
    reference = load(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    model, _ = load_base(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 70, 80, 260, 2]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, reference(ids).logits, rtol=0, atol=0)


def test_weights_are_stored_in_bfloat16_with_tied_embeddings(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_configuration_is_the_given_one_word_for_word(
    folder: Path, tiny_config: dict[str, Any]
) -> None:
    assert json.loads((folder / "config.json").read_text()) == tiny_config
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def test_ids_are_those_of_transformers_where_no_digits_are(folder: Path, gguf_file: Path) -> None:
    reference = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("hello, hell", " a<|im_end|>\n\tb's", "é日本 😀", ""):
        assert tokenizer(text).input_ids == reference(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_are_split_one_by_one(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("hell12") == ["hell", "1", "2"]  # though "12" is a token


def test_special_tokens_template_and_padding_are_set(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 128)
    messages = [{"role": "user", "content": "hell"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "hell", "<|im_end|>"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such file"])
def test_a_damaged_file_is_one_line(
    content: bytes, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"'.*damaged\.gguf' is not a whole GGUF file of this model"
    ):
        convert_gguf(file, tiny_config, tmp_path)
    assert list(tmp_path.iterdir()) == [file]
