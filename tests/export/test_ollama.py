"""Folders for `ollama create`: what is in them, and which are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedConfig

from text_to_lora.errors import ConfigError
from text_to_lora.export import gguf
from text_to_lora.export.ollama import write_adapter
from tiny_exports import make_weights

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_folder_holds_the_gguf_export_and_a_modelfile(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(llama_config, name=SMOLLM2)
    folder = write_adapter(weights, tmp_path / "ollama", llama_config)
    file = gguf.write_adapter(weights, tmp_path / "a.gguf", llama_config)
    assert {path.name for path in folder.iterdir()} == {"Modelfile", "adapter.gguf"}
    assert (folder / "adapter.gguf").read_bytes() == file.read_bytes()
    assert (folder / "Modelfile").read_text() == (
        "# Written by text-to-lora: ollama create NAME -f Modelfile\n"
        "FROM smollm2:135m\n"
        "ADAPTER ./adapter.gguf\n"
        "PARAMETER temperature 0\n"
    )


@pytest.mark.parametrize("name", ["mistral:7b", "/models/my base.gguf", "hf.co/me/tiny:Q8_0"])
def test_the_base_is_named_as_asked(
    llama_config: PreTrainedConfig, tmp_path: Path, name: str
) -> None:
    weights = make_weights(llama_config, name=SMOLLM2)
    folder = write_adapter(weights, tmp_path / "ollama", llama_config, engine_base=name)
    assert f"\nFROM {name}\n" in (folder / "Modelfile").read_text()


def test_a_folder_of_ours_may_be_overwritten_and_one_of_others_may_not(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(llama_config)
    folder = write_adapter(weights, tmp_path / "out", llama_config, engine_base="a")
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        write_adapter(weights, folder, llama_config, engine_base="b")
    write_adapter(weights, folder, llama_config, engine_base="b", overwrite=True)
    assert "FROM b\n" in (folder / "Modelfile").read_text()
    (folder / "Modelfile").write_text("FROM mine\nADAPTER ./adapter.gguf\n")
    with pytest.raises(ConfigError, match="which this program did not write"):
        write_adapter(weights, folder, llama_config, engine_base="b", overwrite=True)
    assert (folder / "Modelfile").read_text().startswith("FROM mine")
