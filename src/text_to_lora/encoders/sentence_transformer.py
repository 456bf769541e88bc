"""SentenceTransformerEncoder: any model that sentence-transformers loads without remote code."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, final

import torch
from torch import Tensor

from text_to_lora.encoders.base import BatchedEncoder, tokenize
from text_to_lora.encoders.config import Pooling, TextSettings
from text_to_lora.encoders.model_files import find_folder, folder_hash
from text_to_lora.errors import ConfigError, first_line

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


@final
class SentenceTransformerEncoder(BatchedEncoder):
    """A model of sentence-transformers, with its own modules after pooling.

    name: a model of the hub or a local folder

    Raises ConfigError when the package is missing, there is no such model, it cannot be loaded
    without code of its own, its pooling is not one of mean, cls and last, or its own prompt leaves
    no room for a description.
    """

    def __init__(
        self,
        name: str,
        settings: TextSettings | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if find_spec("sentence_transformers") is None:
            raise ConfigError(
                f"the text encoder {name!r} needs the package sentence-transformers; "
                'run: pip install "text-to-lora[train]"'
            )
        folder, commit = find_folder(name, revision)
        from sentence_transformers import SentenceTransformer

        try:
            model: Any = SentenceTransformer(
                str(folder), device=str(device), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever the libraries raise for broken files
            raise ConfigError(
                f"the text encoder {name!r} cannot be loaded: {first_line(error)}"
            ) from error
        modes = [part.pooling_mode for part in model if hasattr(part, "pooling_mode")]
        if len(modes) != 1 or modes[0] not in _POOLINGS:
            raise ConfigError(
                f"the text encoder {name!r} pools by {modes}; "
                f"one of {', '.join(_POOLINGS)} is needed"
            )
        super().__init__(
            "sentence-transformers",
            name,
            revision=commit,
            embedding_dim=model.get_embedding_dimension(),
            model_limit=model.max_seq_length,
            pooling=_POOLINGS[modes[0]],
            weights=folder_hash(folder),
            settings=settings,
        )
        self._model = model
        self._model.max_seq_length = self.config.max_tokens
        # The model's own default prompt, which it puts before every text.
        self._prompt = str((model.prompts or {}).get(model.default_prompt_name) or "")
        self._unknown_id = getattr(model.tokenizer, "unk_token_id", None)
        prompt_tokens = len(self._tokenize([""], special=True)[0])
        if self._prompt and prompt_tokens >= self.config.max_tokens:
            raise ConfigError(
                f"the text encoder {name!r} puts a prompt of {prompt_tokens} tokens before every "
                f"description and reads {self.config.max_tokens} tokens, so that no description is "
                "read; choose another encoder, or shorten default_prompt_name's prompt in its "
                "config_sentence_transformers.json"
            )

    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        texts = [self._prompt + text for text in prepared] if special else prepared
        return tokenize(self._model.tokenizer, texts, special=special)

    def _embed(self, prepared: list[str]) -> Tensor:
        embeddings: Tensor = self._model.encode(
            prepared, convert_to_tensor=True, show_progress_bar=False
        )
        return embeddings
