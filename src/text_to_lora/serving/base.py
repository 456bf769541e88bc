"""The base model, loaded only to run or merge an adapter, never to generate one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.serving.sources import find_base, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    name_or_path: str | Path,
    *,
    spec: LoraSpec | None = None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer, ready for inference.

    name_or_path: "embedded", a folder, or a repository of the hub
    spec: of the adapters that it will carry; checked against its configuration first
    dtype: None for float32 on the CPU and the checkpoint's own on other devices

    Raises ConfigError when it cannot be loaded, SpecError when it is not the base of `spec`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_base(name_or_path, revision=revision)
    config = load_base_config(folder)
    if spec is not None:
        spec.check_base(config)
    on_cpu = torch.device(device).type == "cpu"
    chosen: Any = dtype or (torch.float32 if on_cpu else "auto")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=chosen, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever transformers and safetensors raise for broken files
        raise ConfigError(
            f"cannot load base model {str(name_or_path)!r}: {first_line(error)}"
        ) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def load_base_config(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """Load a base model's configuration, without its weights.

    Raises ConfigError when it cannot be read.
    """
    from transformers import AutoConfig

    folder = find_base(name_or_path, revision=revision)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot read the configuration of base model {str(name_or_path)!r}: "
            f"{first_line(error)}"
        ) from error
    return config
