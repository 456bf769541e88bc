from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.lora import LoraSpec
from text_to_lora.models.base import load_base, load_base_config, load_tokenizer
from tiny_models import make_config, make_tokenizer, save_base


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


@pytest.mark.parametrize("fast", [True, False])
def test_the_checkpoints_dtype_is_kept_where_the_device_multiplies_it_fast(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    load_base(base_folder, dtype=torch.bfloat16)[0].save_pretrained(tmp_path)
    load_base(base_folder)[1].save_pretrained(tmp_path)
    monkeypatch.setattr(
        "text_to_lora.models.base.has_fast_product",
        lambda dtype, device: fast or dtype.itemsize == 4,
    )
    assert load_base(tmp_path)[0].dtype == (torch.bfloat16 if fast else torch.float32)
    assert load_base(base_folder)[0].dtype == torch.float32  # never narrower than the file


def test_another_base_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "wide", hidden_size=64)
    (folder / "model.safetensors").write_bytes(b"not read")
    spec = LoraSpec.from_config(make_config(), targets=["q_proj"], name="narrow")
    with pytest.raises(SpecError, match="adapter is for base 'narrow'"):
        load_base(folder, spec=spec)


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration of base model"):
        load_base_config(tmp_path)


def test_an_adapter_beside_the_base_is_no_part_of_it(copy: Path) -> None:
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (copy / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ConfigError, match=r"holds adapter_config\.json, an adapter, which would"):
        load_base(copy)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"model_type": ["llama"]}'),
        ("config.json", '{"model_type": "llama", "dtype": "float"'),
        ("config.json", '{"model_type": "llama", "dtype": "x"}'),
        ("config.json", '{"model_type": "llama", "rope_parameters": 3}'),
        ("config.json", '{"model_type": "llama", "quantization_config": "x"}'),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1"),
        ("tokenizer.json", "[]"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}'),
    ],
)
def test_what_cannot_be_read_is_one_line(file: str, content: str, copy: Path) -> None:
    (copy / file).write_text(content)
    read = load_base_config if file == "config.json" else load_tokenizer
    with pytest.raises(ConfigError, match=r"cannot read the (configuration|tokenizer) of base"):
        read(copy)


def test_the_revision_that_a_spec_records_is_loaded(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = LoraSpec.from_config(make_config(), targets=["q_proj"], name="me/base", revision="v2")
    asked: list[str | None] = []

    def download(name: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append(revision)
        return str(base_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_base("me/base", spec=spec)
    load_base("me/base", spec=spec, revision="main")
    load_base("me/other", spec=spec)
    assert asked == ["v2", "main", None]


def test_without_a_name_the_base_of_the_spec_is_loaded(base_folder: Path) -> None:
    spec = LoraSpec.from_config(make_config(), targets=["q_proj"], name=str(base_folder))
    model, _ = load_base(spec=spec)
    assert model.config.hidden_size == 32


def test_without_name_and_spec_nothing_is_loaded() -> None:
    with pytest.raises(ConfigError, match="no base model is named; give a name, or a spec that"):
        load_base()
