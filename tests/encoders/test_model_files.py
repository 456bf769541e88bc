"""Where an encoder's files lie, and what stands for their content."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel

from text_to_lora.encoders.model_files import (
    find_folder,
    folder_hash,
    load_strictly,
    module_hash,
    weight_files,
)
from text_to_lora.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_model_of_the_hub_carries_its_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(folder))
    assert find_folder("org/model") == (folder, folder.name)
    assert find_folder(str(folder)) == (folder, None)


def test_a_hub_that_is_not_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match="'org/model' is neither a local folder nor on the hub"):
        find_folder("org/model")
    with pytest.raises(ConfigError, match="'no such/model/path' is neither"):
        find_folder("no such/model/path")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds no \.safetensors weights"):
        find_folder(str(tmp_path))


def test_an_adapter_beside_the_encoder_is_no_part_of_it(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"text encoder .* holds adapter_config\.json, an adapter"
    ):
        find_folder(str(folder))


def test_the_folders_hash_follows_what_changes_a_vector(folder: Path) -> None:
    before = folder_hash(folder)
    (folder / "README.md").write_text("words")
    (folder / "onnx").mkdir()
    save_file({"w": torch.ones(1)}, folder / "onnx" / "model.safetensors")
    assert folder_hash(folder) == before and weight_files(folder) == [folder / "model.safetensors"]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    pooled = folder_hash(folder)
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    assert len({before, pooled, folder_hash(folder)}) == 3


def test_a_live_models_hash_ignores_dtype_and_sees_every_weight() -> None:
    module = nn.Linear(3, 2)
    before = module_hash(module)
    assert module_hash(module.to(torch.bfloat16).float()) == before
    module.bias.data[1] += 1
    assert module_hash(module) != before


def test_broken_or_missing_weights_are_named(tmp_path: Path) -> None:
    model = BertModel(
        BertConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(ConfigError, match="cannot be loaded: "):
        load_strictly(BertModel, tmp_path)
    state = {k: v for k, v in model.state_dict().items() if k != "pooler.dense.bias"}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, 'pooler\.dense\.bias' first"):
        load_strictly(BertModel, tmp_path)
