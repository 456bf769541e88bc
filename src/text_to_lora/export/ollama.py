"""Folders for `ollama create`: the GGUF file of an adapter, and a Modelfile that puts it on a base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.export.gguf import name_tensors, write_gguf
from text_to_lora.files import MODELFILE, MODELFILE_START, write_folder, write_text
from text_to_lora.lora.weights import LoraWeights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ADAPTER_FILE: Final = "adapter.gguf"

# Names in Ollama's library of bases that adapters of this program are for.
_LIBRARY_NAMES: Final[Mapping[str, str]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2:135m",
    "google/gemma-2-2b-it": "gemma2:2b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1:8b",
}
# Types of bases that run in Ollama's own engine, which answers "loras are not yet implemented" to
# adapters. Source: fs/ggml/ggml.go (OllamaEngineRequired) and runner/ollamarunner of Ollama 0.13.
_WITHOUT_ADAPTERS: Final = frozenset({"gemma3", "gemma3_text", "qwen3"})


def write_adapter(
    weights: LoraWeights,
    path: Path | str,
    base_config: PreTrainedConfig,
    *,
    overwrite: bool = False,
    engine_base: str | None = None,
) -> Path:
    """Write a folder with a GGUF file and a Modelfile; see `export_adapter`.

    engine_base: what FROM says: a name that Ollama can pull, or the path of a GGUF file of the
        base; None for the name in Ollama's library, where that is known

    Raises SpecError for a base that Ollama runs without adapters, and as the GGUF export does.
    """
    model_type = weights.spec.base.model_type
    if model_type in _WITHOUT_ADAPTERS:
        raise SpecError(
            f"Ollama runs bases of type {model_type!r} without adapters; export to gguf and serve "
            "it with llama.cpp, or merge the adapter into its base with `t2l merge`"
        )
    tensors = name_tensors(weights, base_config)
    # the answers are greedy, as those of `t2l run`
    modelfile = (
        f"{MODELFILE_START}: ollama create NAME -f {MODELFILE}\n"
        f"FROM {_base_name(weights.spec.base.name, engine_base)}\n"
        f"ADAPTER ./{ADAPTER_FILE}\n"
        "PARAMETER temperature 0\n"
    )
    with write_folder(path, overwrite=overwrite) as folder:
        write_gguf(folder / ADAPTER_FILE, tensors, weights.spec)
        write_text(folder / MODELFILE, modelfile)
    return Path(path)


def _base_name(hub_name: str, engine_base: str | None) -> str:
    """What FROM says; ConfigError when it is not known or cannot stand on one line."""
    name = _LIBRARY_NAMES.get(hub_name) if engine_base is None else engine_base
    if name is None:
        raise ConfigError(
            f"the name of base {hub_name or 'unnamed'!r} in Ollama's library is not known; give it, "
            "or the path of a GGUF file of the base, with --engine-base"
        )
    if not re.fullmatch(r"\S([^\r\n\x00]*\S)?", name):
        raise ConfigError(
            f"engine base {name!r} cannot stand in a Modelfile; give a name on one line"
        )
    return name
