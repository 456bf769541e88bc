from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import make_config, make_tokenizer, save_base

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.lora import LoraSpec
from text_to_lora.serving.base import load_base, load_base_config


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


def test_a_base_is_ready_for_batches(copy: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(copy)
    model, loaded = load_base(copy)
    assert not model.training
    assert model.dtype == torch.float32
    assert loaded.padding_side == "left"
    assert loaded.pad_token_id == loaded.eos_token_id


def test_the_dtype_can_be_chosen(base_folder: Path) -> None:
    model, _ = load_base(base_folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16


def test_another_base_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "wide", hidden_size=64)
    (folder / "model.safetensors").write_bytes(b"not read")
    spec = LoraSpec.from_config(make_config(), targets=["q_proj"], name="narrow")
    with pytest.raises(SpecError, match="adapter is for base 'narrow'"):
        load_base(folder, spec=spec)


def test_truncated_weights_are_one_line(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ConfigError, match="cannot load base model") as caught:
        load_base(copy)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot load base model.*safetensors"):
        load_base(copy)


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration of base model"):
        load_base_config(tmp_path)
