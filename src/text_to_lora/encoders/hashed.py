"""HashEncoder: a text encoder without a model, for tests; texts that share words are near."""

from __future__ import annotations

import hashlib
import re
from typing import final

import torch
from torch import Tensor

from text_to_lora.encoders.base import BatchedEncoder
from text_to_lora.encoders.config import TextSettings
from text_to_lora.files import content_hash

_TOKEN = re.compile(r"\w+|[^\w\s]")
_MAX_TOKENS = 512


@final
class HashEncoder(BatchedEncoder):
    """The mean of one fixed random vector per lower-case word; the same on every machine.

    embedding_dim: width of a task embedding
    """

    def __init__(self, embedding_dim: int = 32, settings: TextSettings | None = None) -> None:
        super().__init__(
            "hash",
            "hash",
            revision=None,
            embedding_dim=embedding_dim,
            model_limit=_MAX_TOKENS,
            pooling="mean",
            weights=content_hash("shake_256 of words, version 1"),
            settings=settings,
        )

    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        return [list(range(len(_TOKEN.findall(text)))) for text in prepared]

    def _embed(self, prepared: list[str]) -> Tensor:
        return torch.stack([self._mean(text) for text in prepared])

    def _mean(self, text: str) -> Tensor:
        words = _TOKEN.findall(text.lower())[: self.config.max_tokens]
        rows = [
            list(hashlib.shake_256(word.encode()).digest(self.config.embedding_dim))
            for word in words
        ]
        return (torch.tensor(rows, dtype=torch.float64) - 127.5).mean(0)
