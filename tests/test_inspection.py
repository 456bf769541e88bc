from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from text_to_lora.errors import CheckpointError, ConfigError
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


def test_what_is_neither_is_refused_and_a_reference_checkpoint_is_sent_to_convert(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="holds neither adapter_config"):
        describe(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        describe(tmp_path / "nowhere")
    (tmp_path / "hypermod.pt").touch()
    with pytest.raises(CheckpointError, match="t2l convert"):
        describe(tmp_path)
