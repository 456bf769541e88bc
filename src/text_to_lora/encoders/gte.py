"""GteEncoder: the paper's gte-large-en-v1.5 through transformers' own GteModel, no remote code."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from text_to_lora.encoders.base import BatchedEncoder, FileTokenizer, pad_right, pool
from text_to_lora.encoders.config import TextSettings
from text_to_lora.encoders.model_files import find_folder, folder_hash, load_strictly
from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json

GTE_LARGE = "Alibaba-NLP/gte-large-en-v1.5"
GTE_BASE = "Alibaba-NLP/gte-base-en-v1.5"

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


@final
class GteEncoder(BatchedEncoder):
    """A GTE v1.5 model in fp32: the last hidden state of its first token.

    name: a model of the hub or a local folder

    Raises ConfigError when the model cannot be found or is not a GTE model.
    Source: Text-to-LoRA (arXiv 2506.06105): gte-large-en-v1.5, CLS vector, 8192 tokens.
    """

    def __init__(
        self,
        name: str = GTE_LARGE,
        settings: TextSettings | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        from transformers.models.gte import GteConfig, GteModel

        folder, commit = find_folder(name, revision)
        model_config = GteConfig(**native_fields(read_json(folder / "config.json")))
        super().__init__(
            "gte",
            name,
            revision=commit,
            embedding_dim=model_config.hidden_size,
            model_limit=model_config.max_position_embeddings,
            pooling="cls",
            weights=folder_hash(folder),
            settings=settings,
        )
        self._device = device
        model = load_strictly(GteModel, folder, config=model_config, dtype=torch.float32)
        self._model = model.to(device)
        self._tokenizer = FileTokenizer(folder / "tokenizer.json")
        self._unknown_id = self._tokenizer.unknown_id

    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        return self._tokenizer.ids(prepared, special=special)

    def _embed(self, prepared: list[str]) -> Tensor:
        ids = self._tokenizer.ids(prepared, self.config.max_tokens)
        tokens, mask = pad_right(ids, self._device)
        hidden: Tensor = self._model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return pool(hidden, mask, "cls")


def native_fields(stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of transformers' GteConfig from a stored config.json of either form.

    The published files say model_type "new" and name a class of remote code, whose rotary type
    "ntk" transformers lacks. Its frequencies theta'^(-2i/d) / f^(2/d) with theta' = f * theta are
    those of transformers' "linear" type with base f * theta and factor f^(2/d).

    Raises ConfigError when the configuration is not one that GteModel can run.
    """
    if stored.get("model_type") not in ("new", "gte"):
        raise ConfigError(
            f"model_type is {stored.get('model_type')!r}, not 'gte' or 'new'; "
            "load this model as 'sentence-transformers:NAME'"
        )
    for name, expected in (
        ("position_embedding_type", "rope"),
        ("layer_norm_type", "layer_norm"),
        ("logn_attention_scale", False),
    ):
        if stored.get(name, expected) != expected:
            raise ConfigError(f"{name} is {stored[name]!r}; GteModel runs {expected!r} only")
    fields = {name: stored[name] for name in _FIELDS if name in stored}
    fields["rope_parameters"] = stored.get("rope_parameters") or _rope(stored)
    return fields


def _rope(stored: dict[str, Any]) -> dict[str, Any]:
    theta = float(stored["rope_theta"])
    scaling = stored.get("rope_scaling")
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None:
        raise ConfigError(f"rope_scaling is {scaling!r}; null or plain 'ntk' is expected")
    factor = float(scaling["factor"])
    head_dim = stored["hidden_size"] // stored["num_attention_heads"]
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head_dim)}
