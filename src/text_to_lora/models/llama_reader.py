"""LlamaReader: the inputs of a Llama's modules, without transformers.

The decoder is written out over the raw tensors, as MiniLM is: importing transformers for it takes
longer than all the rest of generating an adapter. A test holds equality with transformers' Llama on
the same files.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from text_to_lora.errors import ConfigError, first_line
from text_to_lora.files import read_json
from text_to_lora.hypernet.layers import has_fast_product, wide
from text_to_lora.lora.tensors import load_tensors


@final
class LlamaReader:
    """A Llama without biases and rotary scaling, as TokenReader wants a base.

    folder: of the default base, as this program made it

    Raises ConfigError when a file of the folder is missing or broken.
    """

    def __init__(self, folder: Path, *, device: str | torch.device = "cpu") -> None:
        from tokenizers import Tokenizer

        try:
            config = read_json(folder / "config.json")
            weights = load_tensors(folder / "model.safetensors", ConfigError)
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises the bare class
            raise ConfigError(
                f"the default base model in {str(folder)!r} is damaged; delete that folder, and the "
                f"next command makes it again ({first_line(error)})"
            ) from error
        dtype = weights["model.norm.weight"].dtype
        if not has_fast_product(dtype, torch.device(device)):
            dtype = torch.float32
        self._weights = {name: weight.to(device, dtype) for name, weight in weights.items()}
        self._layers: int = config["num_hidden_layers"]
        self._head_size: int = config["hidden_size"] // config["num_attention_heads"]
        self._eps: float = config["rms_norm_eps"]
        self._rotary_base: float = config["rope_theta"]
        self.end_of_answer: int = config["eos_token_id"]
        self.device = torch.device(device)

    def tokenize(self, text: str) -> list[int]:
        """See ReadableBase.tokenize."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def embed(self, tokens: Tensor) -> Tensor:
        """See ReadableBase.embed."""
        return embedding(tokens, self._weights["model.embed_tokens.weight"])

    def inputs(
        self, tokens: Tensor, mask: Tensor, modules: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], Tensor]:
        """See ReadableBase.inputs; no token sees the padding to the right of it, so no mask is used."""
        inputs: dict[tuple[str, int], Tensor] = {}
        x = self.embed(tokens)
        cos, sin = self._rotation(tokens.shape[1])

        def project(x: Tensor, module: str) -> Tensor:
            inputs[module, layer] = x
            return linear(x, self._weights[f"model.layers.{layer}.{module}.weight"])

        def norm(x: Tensor, module: str) -> Tensor:
            x32 = wide(x)
            x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self._eps)
            return self._weights[f"model.layers.{layer}.{module}.weight"] * x32.to(x.dtype)

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], -1, self._head_size).transpose(1, 2)

        def turn(x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=-1)
            return x * cos + torch.cat([-second, first], dim=-1) * sin

        for layer in range(self._layers):
            inputs["", layer] = x
            y = norm(x, "input_layernorm")
            q, k, v = (heads(project(y, f"self_attn.{part}_proj")) for part in "qkv")
            mixed = scaled_dot_product_attention(
                turn(q), turn(k), v, is_causal=True, enable_gqa=True
            )
            x = x + project(mixed.transpose(1, 2).flatten(2), "self_attn.o_proj")
            y = norm(x, "post_attention_layernorm")
            gated = silu(project(y, "mlp.gate_proj")) * project(y, "mlp.up_proj")
            x = x + project(gated, "mlp.down_proj")
        return {key: inputs[key] for key in modules}

    def _rotation(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary angles, both [length, head]."""
        halves = torch.arange(0, self._head_size, 2, dtype=torch.float32, device=self.device)
        frequencies = 1.0 / self._rotary_base ** (halves / self._head_size)
        angles = torch.arange(length, device=self.device)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        dtype = self._weights["model.norm.weight"].dtype
        return angles.cos().to(dtype), angles.sin().to(dtype)
