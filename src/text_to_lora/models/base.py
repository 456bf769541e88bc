"""The base model, loaded only to run or merge an adapter, never to generate one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.errors import ConfigError, first_line
from text_to_lora.files import check_no_adapter
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.tensors import is_finite
from text_to_lora.models.find import base_to_load, find_base

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    name_or_path: str | Path | None = None,
    *,
    spec: LoraSpec | None = None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer, ready for inference.

    name_or_path: "embedded", a folder, or a repository of the hub; None for the base of `spec`
    spec: of the adapters that it will carry; checked against its configuration first
    revision: of a repository; None for the one that `spec` records of this name, or the newest
    dtype: None for the checkpoint's own, or float32 where the device multiplies that more slowly

    Raises ConfigError when it cannot be loaded or an adapter lies beside it, when weights are
    missing, of another shape or not finite; SpecError when it is not the base of `spec`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name_or_path is None:
        if spec is None or not spec.base.name:
            raise ConfigError("no base model is named; give a name, or a spec that names one")
        name_or_path = base_to_load(spec.base.name, revision or spec.base.revision)
    if revision is None and spec is not None and str(name_or_path) == spec.base.name:
        revision = spec.base.revision
    folder = find_base(name_or_path, revision=revision)
    check_no_adapter(folder, f"base model {str(name_or_path)!r}")
    config = load_base_config(folder)
    if spec is not None:
        spec.check_base(config)
    loaded_dtype: Any = dtype or config.dtype or torch.float32
    if dtype is None and not has_fast_product(loaded_dtype, torch.device(device)):
        loaded_dtype = torch.float32
    load: Any = AutoModelForCausalLM.from_pretrained
    model: Any
    try:
        model, report = load(
            folder,
            config=config,
            dtype=loaded_dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers and safetensors raise for broken files
        raise ConfigError(
            f"cannot load base model {str(name_or_path)!r}: {first_line(error)}"
        ) from error
    _check_weights(model, report, name_or_path)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def load_tokenizer(
    name_or_path: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a base model's tokenizer alone.

    Raises ConfigError when it cannot be read.
    """
    from transformers import AutoTokenizer

    folder = find_base(name_or_path, revision=revision)
    load: Any = AutoTokenizer.from_pretrained
    try:
        tokenizer: PreTrainedTokenizerBase = load(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers and tokenizers raise for broken files
        raise ConfigError(
            f"cannot read the tokenizer of base model {str(name_or_path)!r}: {first_line(error)}"
        ) from error
    return tokenizer


def load_base_config(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedConfig:
    """Load a base model's configuration, without its weights.

    Raises ConfigError when it cannot be read.
    """
    from transformers import AutoConfig

    folder = find_base(name_or_path, revision=revision)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers and tokenizers raise for broken files
        raise ConfigError(
            f"cannot read the configuration of base model {str(name_or_path)!r}: {first_line(error)}"
        ) from error
    return config


def _check_weights(
    model: PreTrainedModel, report: Mapping[str, Any], name_or_path: str | Path
) -> None:
    """Raise ConfigError for what transformers would fill with random numbers, and for NaN."""
    problems = [f"lacks {name}" for name in sorted(report["missing_keys"])]
    problems += [
        f"has NaN or infinity in {name}"
        for name, parameter in model.named_parameters()
        if not is_finite(parameter)
    ]
    if problems:
        more = f" and {len(problems) - 1} more of the kind" if len(problems) > 1 else ""
        raise ConfigError(
            f"base model {str(name_or_path)!r} {problems[0]}{more}; copy or download it again"
        )
