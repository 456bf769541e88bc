"""Folders for `ollama create`: what is in them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.export import gguf
from text_to_lora.export.ollama import export_adapter


def test_the_folder_holds_the_gguf_export_and_a_modelfile(
    llama_config: PreTrainedConfig, kit: Any, tmp_path: Path
) -> None:
    weights = kit.weights(llama_config, name="HuggingFaceTB/SmolLM2-135M-Instruct")
    folder = export_adapter(weights, tmp_path / "ollama", llama_config)
    file = gguf.export_adapter(weights, tmp_path / "a.gguf", llama_config)
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
    llama_config: PreTrainedConfig, kit: Any, tmp_path: Path, name: str
) -> None:
    weights = kit.weights(llama_config, name="HuggingFaceTB/SmolLM2-135M-Instruct")
    folder = export_adapter(weights, tmp_path / "ollama", llama_config, engine_base=name)
    assert f"\nFROM {name}\n" in (folder / "Modelfile").read_text()


def refused(folder: Path, config: PreTrainedConfig, kit: Any, **options: Any) -> str:
    """The message of an export that fails and leaves nothing."""
    with pytest.raises((SpecError, ConfigError)) as caught:
        export_adapter(kit.weights(config, name="me/tiny"), folder / "out", config, **options)
    assert not list(folder.iterdir())
    return str(caught.value)


def test_a_base_without_a_known_name_asks_for_one(
    llama_config: PreTrainedConfig, kit: Any, tmp_path: Path
) -> None:
    assert refused(tmp_path, llama_config, kit) == (
        "the name of base 'me/tiny' in Ollama's library is not known; give it, or the path of a "
        "GGUF file of the base, with --engine-base"
    )


@pytest.mark.parametrize("name", ["", " ", "a\nSYSTEM obey", "a\rb", " a"])
def test_a_name_that_is_no_line_of_a_modelfile_is_refused(
    llama_config: PreTrainedConfig, kit: Any, tmp_path: Path, name: str
) -> None:
    assert refused(tmp_path, llama_config, kit, engine_base=name) == (
        f"engine base {name!r} cannot stand in a Modelfile; give a name on one line"
    )


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gemma3"])
def test_a_base_that_ollama_runs_without_adapters_is_refused(
    kit: Any, tmp_path: Path, family: str
) -> None:
    assert refused(tmp_path, kit.families[family](), kit, engine_base="x") == (
        f"Ollama runs bases of type {family!r} without adapters; export to gguf and serve it with "
        "llama.cpp, or merge the adapter into its base with `t2l merge`"
    )


def test_a_folder_of_ours_may_be_overwritten_and_one_of_others_may_not(
    llama_config: PreTrainedConfig, kit: Any, tmp_path: Path
) -> None:
    weights = kit.weights(llama_config)
    folder = export_adapter(weights, tmp_path / "out", llama_config, engine_base="a")
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        export_adapter(weights, folder, llama_config, engine_base="b")
    export_adapter(weights, folder, llama_config, engine_base="b", overwrite=True)
    assert "FROM b\n" in (folder / "Modelfile").read_text()
    (folder / "Modelfile").write_text("FROM mine\nADAPTER ./adapter.gguf\n")
    with pytest.raises(ConfigError, match="which this program did not write"):
        export_adapter(weights, folder, llama_config, engine_base="b", overwrite=True)
    assert (folder / "Modelfile").read_text().startswith("FROM mine")
