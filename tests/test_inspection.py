from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from text_to_lora.errors import AdapterFormatError, CheckpointError, ConfigError
from text_to_lora.generate import TextToLora
from text_to_lora.inspection import describe


@pytest.fixture
def adapter(hypernet_folder: Path, tmp_path: Path) -> Path:
    t2l = TextToLora.from_pretrained(hypernet_folder)
    return t2l.generate(["Say yes"]).save(tmp_path / "adapter")[0]


def test_an_adapter_is_described_by_its_files(adapter: Path, base_folder: Path) -> None:
    facts = describe(adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert facts["kind"] == "adapter"
    assert facts["base"] == str(base_folder)
    assert (facts["rank"], facts["alpha"], facts["rslora"]) == (4, 4, False)
    assert facts["modules"] == len(tensors) / 2 == 4
    assert facts["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert facts["bytes"] == sum(file.stat().st_size for file in adapter.iterdir())
    assert facts["dtype"] == ["float32"]
    assert facts["provenance"]["description"] == "Say yes"


def test_an_adapter_without_provenance_is_described(adapter: Path) -> None:
    (adapter / "provenance.json").unlink()
    assert describe(adapter)["provenance"] is None


def test_a_hypernetwork_is_described(hypernet_folder: Path, base_folder: Path) -> None:
    facts = describe(hypernet_folder)
    tensors = load_file(hypernet_folder / "model.safetensors")
    assert (facts["kind"], facts["head"], facts["rank"]) == ("hypernetwork", "joint", 4)
    assert facts["base"] == str(base_folder)
    assert facts["layers"] == 2
    # rank (in + out) of q (32 to 32) and v (32 to 16) in two layers
    assert facts["adapter_parameters"] == 2 * 4 * (32 + 32 + 32 + 16)
    assert facts["parameters"] <= sum(tensor.numel() for tensor in tensors.values())
    assert facts["training"] == {"steps": 3}


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither adapter_config"):
        describe(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        describe(tmp_path / "nowhere")


def test_a_reference_checkpoint_is_sent_to_convert(tmp_path: Path) -> None:
    (tmp_path / "hypermod.pt").touch()
    with pytest.raises(CheckpointError, match="t2l convert"):
        describe(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_refused(adapter: Path, content: bytes | None) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    with pytest.raises(
        AdapterFormatError, match=r"truncated or corrupt|a pickle named safetensors"
    ):
        describe(adapter)


def test_missing_weights_are_named(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterFormatError, match=r"holds no adapter_model\.safetensors"):
        describe(adapter)


def test_nan_is_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[1]
    tensors[name] = torch.full_like(tensors[name], torch.nan)
    save_file(tensors, file)
    with pytest.raises(AdapterFormatError, match=f"NaN or infinity in {name}"):
        describe(adapter)


def test_a_changed_hypernetwork_is_refused(hypernet_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(hypernet_folder, tmp_path / "copy"))
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        describe(copy)
