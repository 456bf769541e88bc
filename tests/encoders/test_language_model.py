"""LanguageModelEncoder: the last hidden state at the last token, whatever the padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from text_to_lora.encoders import LanguageModelEncoder, TextSettings, load_encoder
from text_to_lora.errors import ConfigError, T2LWarning


@pytest.fixture
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tokenizer(bert_tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=bert_tokenizer, pad_token="[PAD]")


@pytest.mark.parametrize("side", ["left", "right"])
def test_embeddings_are_the_last_hidden_state_of_each_text_alone(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], side: str
) -> None:
    tokenizer.padding_side = side
    embeddings = LanguageModelEncoder(model, tokenizer).encode(texts)
    for text, row in zip(texts, embeddings, strict=True):
        text = text.strip()
        ids = tokenizer(text + "." if text[-1].isalpha() else text, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(row, functional.normalize(hidden, dim=0) * 32**0.5)


def test_a_live_model_and_its_folder_have_one_fingerprint(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    live = LanguageModelEncoder(model, tokenizer, name=str(tmp_path))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_encoder(f"language-model:{tmp_path}")
    assert loaded.config == live.config
    assert loaded.config.kind == "language-model" and loaded.config.pooling == "last"
    assert load_encoder(live.config).encode(["sort"]).dtype == torch.float32


def test_a_bert_decoder_with_its_head_is_read_without_a_pooler(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        is_decoder=True,
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = load_encoder(f"language-model:{tmp_path}")
    with torch.no_grad():
        model = BertLMHeadModel.from_pretrained(tmp_path)
        ids = tokenizer("sort it.", return_tensors="pt").input_ids
        hidden = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    embeddings = encoder.encode(["sort it."])[0]
    torch.testing.assert_close(embeddings, functional.normalize(hidden, dim=0) * 32**0.5)


def test_another_models_weights_are_refused_with_both_fingerprints(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    stored = LanguageModelEncoder(model, tokenizer, name=str(tmp_path)).config
    model.model.norm.weight.data[0] = 7.0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"has fingerprint .*trained with {stored.fingerprint}"):
        load_encoder(stored)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_with_a_broken_file_is_one_line(
    file: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / file).write_text("[]")
    with pytest.raises(ConfigError, match=r"the text encoder in .* cannot be loaded: "):
        LanguageModelEncoder.load(str(tmp_path))


def test_a_cut_reads_the_first_tokens(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder = LanguageModelEncoder(model, tokenizer, TextSettings(max_tokens=4))
    with pytest.warns(T2LWarning, match="read 4 of 6 tokens"):
        cut = encoder.encode(["sort the words"])
    whole = LanguageModelEncoder(model, tokenizer, TextSettings(add_full_stop=False))
    assert encoder.count_tokens(["sort the words"]) == [6]
    torch.testing.assert_close(cut, whole.encode(["sort the"]))


def test_a_model_in_training_mode_is_refused(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoder = LanguageModelEncoder(model.train(), tokenizer)
    with pytest.raises(ConfigError, match=r"in training mode; call model.eval\(\)"):
        encoder.encode(["sort"])
