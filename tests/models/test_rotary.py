"""Engines that do not know `rope_parameters` get the same rotary base; transformers reads what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from text_to_lora.lora.identity import config_hash
from text_to_lora.models.rotary import repeat_rotary_base
from tiny_lora import FAMILIES, PLAIN

SCALED: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS = {
    "another base": LlamaConfig(**PLAIN, rope_parameters={"rope_theta": 100000.0}),
    "scaled": LlamaConfig(**PLAIN, rope_parameters=SCALED),
} | {family: FAMILIES[family]() for family in ("qwen3", "gemma3_text", "gemma3", "gpt2")}


def write(config: PreTrainedConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    repeat_rotary_base(folder)
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_the_same_configuration(name: str, tmp_path: Path) -> None:
    write(CONFIGS[name], tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert config_hash(read) == config_hash(CONFIGS[name])
    for one, other in (
        (read, CONFIGS[name]),
        (read.get_text_config(), CONFIGS[name].get_text_config()),
    ):
        assert getattr(one, "rope_parameters", None) == getattr(other, "rope_parameters", None)


def test_the_base_and_its_scaling_stand_at_the_top(tmp_path: Path) -> None:
    assert write(CONFIGS["another base"], tmp_path)["rope_theta"] == 100000.0
    scaled = write(CONFIGS["scaled"], tmp_path)
    assert scaled["rope_theta"] == 500000.0
    assert scaled["rope_scaling"] == scaled["rope_parameters"]


def test_full_attention_gives_the_base_and_a_text_model_inside_has_it_too(tmp_path: Path) -> None:
    content = write(CONFIGS["gemma3_text"], tmp_path)
    assert content["rope_theta"] == content["rope_parameters"]["full_attention"]["rope_theta"]
    assert "rope_scaling" not in content
    inner = write(CONFIGS["gemma3"], tmp_path)["text_config"]
    assert inner["rope_theta"] == inner["rope_parameters"]["full_attention"]["rope_theta"]


def test_a_model_without_rotary_positions_gets_no_field(tmp_path: Path) -> None:
    assert not {"rope_theta", "rope_scaling"} & write(CONFIGS["gpt2"], tmp_path).keys()
