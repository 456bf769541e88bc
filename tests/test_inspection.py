from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

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
