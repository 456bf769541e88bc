"""OneHotEncoder: names of known tasks instead of descriptions; each has a place of its own."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from text_to_lora.encoders.base import prepare_all
from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import ConfigError, list_some
from text_to_lora.files import content_hash


@final
class OneHotEncoder:
    """Knows tasks by their names alone: the embedding of task i is row i of the identity.

    tasks: the names, in this order

    Raises ConfigError when there is none, or a name is empty or comes twice.
    Source: Text-to-LoRA (arXiv 2506.06105), reconstruction from one-hot task codes.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        names = tuple(tasks)
        self.config = EncoderConfig(
            kind="one-hot",
            name="one-hot",
            revision=None,
            embedding_dim=len(names),
            max_tokens=1,
            pooling="mean",
            prefix="",
            add_full_stop=False,
            norm=1.0,
            fingerprint=content_hash(["one-hot, version 1", *names]),
            tasks=names,
        )
        self._places = {name.strip(): place for place, name in enumerate(names)}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Give the rows of tasks by name: [texts, embedding_dim], fp32, each of norm 1.

        Raises ConfigError for a name that is not one of the tasks, with the nearest that is.
        """
        places = [self._place(text) for text in prepare_all(texts, self.config)]
        rows = torch.zeros(len(places), self.config.embedding_dim)
        rows[torch.arange(len(places)), places] = 1.0
        return rows

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Give 1 for each name: it is read as a whole."""
        return [1] * len(prepare_all(texts, self.config))

    def _place(self, name: str) -> int:
        if name in self._places:
            return self._places[name]
        near = difflib.get_close_matches(name, self._places, n=1, cutoff=0)
        names = list(self._places)
        raise ConfigError(
            f"unknown task {name[:60]!r}, nearest {near[0]!r}; this hypernetwork knows names, not "
            f"descriptions: {list_some(names)}"
        )
