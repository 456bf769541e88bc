"""A Llama model's GGUF file turned into a folder that transformers loads, in bfloat16.

transformers 5.24 reads GGUF files as well, but it refuses to save what it has read, it does not split
digits as SmolLM's tokenizer does, and it takes 16 s of processor time for SmolLM2-135M where this
takes 4.4 s (AMD EPYC, November 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import ConfigError, shorten
from text_to_lora.files import write_json

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from torch import Tensor

# Names in the GGUF format, without "blk.N." and ".weight", and the modules of transformers' Llama.
_MODULES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN: Final = 3  # llama.cpp's token type of special tokens


def convert_gguf(gguf: Path, config: Mapping[str, Any], folder: Path) -> None:
    """Write a model folder from a GGUF file with tied embeddings and GPT-2's kind of tokenizer.

    config: content of the folder's config.json
    folder: exists already

    Raises ConfigError when the file is damaged or of another kind.
    """
    from gguf import GGUFReader
    from safetensors.torch import save_file

    if not gguf.is_file():
        raise ConfigError(f"{str(gguf)!r} is not a file; give a GGUF file")
    try:
        reader = GGUFReader(gguf)
        weights = _read_weights(reader, config)
        tokenizer, template, settings = _read_tokenizer(
            reader, int(config["max_position_embeddings"])
        )
    except Exception as error:  # of a damaged file, gguf and numpy raise almost anything
        raise ConfigError(
            f"{str(gguf)!r} is not a whole GGUF file of this model "
            f"({type(error).__name__}: {shorten(str(error))}); download it again"
        ) from error
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", dict(config))
    write_json(
        folder / "generation_config.json",
        {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)


def _read_weights(reader: GGUFReader, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters of transformers' Llama, each [out, in] or [hidden], in bfloat16."""
    import torch
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        *layer, name, _ = tensor.name.split(".")  # ["blk", "0"] or [], "attn_q", "weight"
        prefix = f"model.layers.{layer[1]}." if layer else ""
        values = dequantize(tensor.data, tensor.tensor_type)
        if name in heads:
            values = _halve_rotary(values, heads[name])
        parameter = torch.tensor(values).to(torch.bfloat16)
        weights[f"{prefix}{_MODULES[name]}.weight"] = parameter
    return weights


def _halve_rotary(weight: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Order the rows of every head by halves, [out, in].

    A rotary pair stands in rows (2 i, 2 i + 1) of a head in GGUF files and in rows (i, i + half) in
    transformers.
    """
    out_features, in_features = weight.shape
    pairs = weight.reshape(num_heads, out_features // num_heads // 2, 2, in_features)
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _read_tokenizer(reader: GGUFReader, max_length: int) -> tuple[Any, str, dict[str, Any]]:
    """Give the tokenizer, its chat template and the content of its tokenizer_config.json.

    Not in the GGUF, but in the tokenizers of SmolLM on the hub: digits are split one by one before
    they are merged (the GGUF names this rule, "smollm", without spelling it out); pad to the left.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def read(field: str) -> Any:
        value = reader.get_field(f"tokenizer.{field}")
        assert value is not None, field
        return value.contents()

    tokens: list[str] = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    tokenizer: Any = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, read("ggml.token_type"), strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    settings = {
        "add_prefix_space": False,
        "bos_token": tokens[read("ggml.bos_token_id")],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[read("ggml.eos_token_id")],
        "model_max_length": max_length,
        "pad_token": tokens[read("ggml.padding_token_id")],
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[read("ggml.unknown_token_id")],
    }
    return tokenizer, str(read("chat_template")), settings
