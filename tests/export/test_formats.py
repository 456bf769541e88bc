"""What all formats share: the list of them, their arguments, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, PreTrainedConfig

from text_to_lora import export
from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.export import FORMATS, export_adapter
from text_to_lora.lora import LoraWeights
from tiny_exports import FAMILIES, make_weights


def gpt2() -> PreTrainedConfig:
    return GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)


def three_adapters(config: PreTrainedConfig) -> LoraWeights:
    return make_weights(config, adapters=3)


def broken(config: PreTrainedConfig) -> LoraWeights:
    weights = make_weights(config)
    weights.b["mlp.up_proj"][0, 1, 0, 0] = torch.nan
    return weights


OTHERS = [name for name in FORMATS if name != "ollama"]
TYPES = "gemma2, gemma3, gemma3_text, llama, mistral, phi3, qwen2, qwen3; merge the adapter"
CASES = [
    *(
        (name, None, three_adapters, None, "3 adapters for one export; export each of weights")
        for name in FORMATS
    ),
    *(
        (name, None, broken, None, "B of 'mlp.up_proj' in layer 1 of adapter 0 holds NaN")
        for name in FORMATS
    ),
    *(
        (name, None, make_weights, "me/base", "does not name its base, so that 'me/base'")
        for name in OTHERS
    ),
    (
        "gguf",
        gpt2,
        make_weights,
        None,
        f"type 'gpt2' cannot be exported to GGUF; supported are {TYPES}",
    ),
    (
        "mlx",
        gpt2,
        make_weights,
        None,
        f"type 'gpt2' cannot be exchanged with MLX; supported are {TYPES}",
    ),
    (
        "ollama",
        None,
        make_weights,
        None,
        "of base 'unnamed' in Ollama's library is not known; give it, or",
    ),
    *(
        (
            "ollama",
            None,
            make_weights,
            name,
            f"engine base {name!r} cannot stand in a Modelfile; give",
        )
        for name in ("", " ", "a\nSYSTEM obey", "a\rb", " a")
    ),
    *(
        (
            "ollama",
            FAMILIES[name],
            make_weights,
            "x",
            f"runs bases of type {name!r} without adapters;",
        )
        for name in ("qwen3", "gemma3_text", "gemma3")
    ),
]


def test_every_module_of_the_package_is_a_format() -> None:
    folder = Path(export.__file__).parent
    modules = {file.stem for file in folder.glob("*.py") if file.stem != "__init__"}
    assert modules | {"peft"} == set(FORMATS)


@pytest.mark.parametrize(("name", "make_config", "make", "engine_base", "message"), CASES)
def test_what_an_engine_cannot_run_is_refused_before_anything_is_written(
    name: str,
    make_config: Callable[[], PreTrainedConfig] | None,
    make: Callable[[PreTrainedConfig], LoraWeights],
    engine_base: str | None,
    message: str,
    llama_config: PreTrainedConfig,
    tmp_path: Path,
) -> None:
    config = make_config() if make_config else llama_config
    with pytest.raises((SpecError, ConfigError), match=re.escape(message)):
        export_adapter(make(config), tmp_path / "out", config, to=name, engine_base=engine_base)
    assert not list(tmp_path.iterdir())
