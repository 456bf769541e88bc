"""A base has one identity, from its folder's configuration and from its model's alike."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from text_to_lora.errors import SpecError
from text_to_lora.files import content_hash
from text_to_lora.lora import LoraSpec, config_hash
from tiny_types import MODEL_TYPES, tiny_config

# Whole models of which AutoModelForCausalLM takes a part, or half of a pair.
PARTS = ("qwen3_5", "llama4", "mllama", "gemma3", "bart", "blenderbot", "whisper", "trocr")


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
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_folder_and_model_of_every_type_have_one_hash(model_type: str) -> None:
    try:
        config = tiny_config(model_type)
        model = make_meta_model(config)
    except Exception as error:
        pytest.skip(f"no small model of {model_type} can be made: {error}")
    assert config_hash(config) == config_hash(model.config)
    is_plain = config.get_text_config(decoder=True) is config
    if is_plain and not config.is_encoder_decoder:
        assert config_hash(config) == earlier_hash(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", PARTS)
def test_specs_from_folder_and_model_are_equal_and_fit_no_other_size(model_type: str) -> None:
    config = tiny_config(model_type)
    model = make_meta_model(config)
    spec = LoraSpec.from_config(config, targets="all-linear", name="x")
    assert LoraSpec.from_config(model.config, targets="all-linear", name="x") == spec
    for earlier in (earlier_hash(config), earlier_hash(model.config)):
        written = replace(spec, base=replace(spec.base, config_hash=earlier))
        for either in (config, model.config):
            spec.check_base(either)
            written.check_base(either)
    other = tiny_config(model_type)
    other.get_text_config().vocab_size = 65
    for either in (other, make_meta_model(other).config):
        with pytest.raises(SpecError, match=rf"\({spec.base.model_type}, config .*this base is"):
            spec.check_base(either)
