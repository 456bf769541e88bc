"""A base has one identity, from its folder's configuration and from its model's alike."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from text_to_lora.errors import SpecError
from text_to_lora.files import content_hash
from text_to_lora.lora import LoraSpec, config_hash

LAYERS = 4
DEPTHS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
)
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
HALF: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
}
PARTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_5": lambda: transformers.Qwen3_5Config(text_config=TEXT),
    "llama4": lambda: transformers.Llama4Config(
        text_config=TEXT | {"intermediate_size_mlp": 48, "num_local_experts": 2}
    ),
    "mllama": lambda: transformers.MllamaConfig(
        text_config=TEXT | {"cross_attention_layers": [1], "pad_token_id": 0}
    ),
    "gemma3": lambda: transformers.Gemma3Config(text_config=TEXT),
    "bart": lambda: transformers.BartConfig(**HALF),
    "blenderbot": lambda: transformers.BlenderbotConfig(**HALF),
    "whisper": lambda: transformers.WhisperConfig(**HALF, pad_token_id=0),
    "trocr": lambda: transformers.TrOCRConfig(vocab_size=64, d_model=32, decoder_layers=2),
}


def make_short(config: PreTrainedConfig) -> PreTrainedConfig:
    """Few layers, in every part."""
    for name in (*DEPTHS, *LISTS):
        value = getattr(config, name, None)
        with suppress(AttributeError, NotImplementedError):  # some are made of others
            if isinstance(value, int):
                setattr(config, name, min(value, LAYERS))
            elif isinstance(value, list):
                setattr(config, name, value[:LAYERS])
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            make_short(part)
    return config


def make_meta_model(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def earlier_hash(config: PreTrainedConfig) -> str:
    """What version 0.1.0 wrote."""
    keys = r"size|dim|layer|head|expert|rank|embd|inner|d_model|ffn|mlp|moe|k_eq_v|is_decoder"
    content: dict[str, Any] = {"model_type": config.model_type}
    for key, value in config.get_text_config(decoder=True).to_dict().items():
        items = value if isinstance(value, list | tuple) else [value]
        if (
            re.search(keys, key)
            and key != "chunk_size_feed_forward"
            and not key.startswith("_")
            and all(item is True or type(item) in (int, str) for item in items)
        ):
            content[key] = value
    return content_hash(content)


@pytest.mark.filterwarnings("ignore")  # of transformers, on its own default configurations
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_folder_and_model_of_every_type_have_one_hash(model_type: str) -> None:
    for sizes in (
        {},
        TEXT,
        TEXT | {"layer_types": ["full_attention"] * LAYERS},
        {"is_decoder": True},
    ):
        with suppress(Exception):
            config = make_short(CONFIG_MAPPING[model_type](**sizes))
            model = make_meta_model(config)
            break
    else:
        pytest.skip(f"no small model of {model_type} can be made of a few sizes")
    assert config_hash(config) == config_hash(model.config)
    is_plain = config.get_text_config(decoder=True) is config
    if is_plain and not config.is_encoder_decoder:
        assert config_hash(config) == earlier_hash(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", PARTS)
def test_specs_from_folder_and_model_are_equal_and_fit_both(family: str) -> None:
    config = PARTS[family]()
    model = make_meta_model(config)
    spec = LoraSpec.from_config(config, targets="all-linear", name="x")
    assert LoraSpec.from_config(model.config, targets="all-linear", name="x") == spec
    for earlier in (earlier_hash(config), earlier_hash(model.config)):
        written = replace(spec, base=replace(spec.base, config_hash=earlier))
        for either in (config, model.config):
            spec.check_base(either)
            written.check_base(either)


@pytest.mark.parametrize("family", PARTS)
def test_another_size_is_refused_from_folder_and_model(family: str) -> None:
    spec = LoraSpec.from_config(PARTS[family](), targets="all-linear")
    other = PARTS[family]()
    other.get_text_config().vocab_size = 65
    for either in (other, make_meta_model(other).config):
        with pytest.raises(SpecError, match=rf"\({spec.base.model_type}, config .*this base is"):
            spec.check_base(either)
