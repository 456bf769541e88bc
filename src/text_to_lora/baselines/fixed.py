"""One adapter for all tasks: trained on all of them (StaticAdapter, Multitask), or a mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from text_to_lora.baselines.protocol import Baseline, Setup
from text_to_lora.lora.library import AdapterLibrary
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row


@final
class StaticAdapter(nn.Module):
    """One trainable LoRA that stands where a hypernetwork would, and does not read descriptions.

    Starts as PEFT does: A ~ U(-1/sqrt(in), 1/sqrt(in)), B zero.
    generator: source of the random numbers; None for torch's global one

    Source: multi-task LoRA of Text-to-LoRA (arXiv 2506.06105).
    """

    def __init__(self, spec: LoraSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        # By place in spec.groups, since a parameter's name cannot hold the dots of a group's key.
        self.a = nn.ParameterList()
        self.b = nn.ParameterList()
        for group in spec.groups:
            slots = len(group.layers)
            bound = 1 / math.sqrt(group.in_features)
            a = torch.empty(slots, spec.rank, group.in_features)
            self.a.append(nn.Parameter(a.uniform_(-bound, bound, generator=generator)))
            self.b.append(nn.Parameter(torch.zeros(slots, group.out_features, spec.rank)))

    def forward(self, embeddings: Tensor) -> LoraWeights:
        """The same adapter once for each task embedding, as views, differentiable.

        embeddings: [tasks, embedding_dim]; only their number counts
        """
        tasks = len(embeddings)
        keys = [group.key for group in self.spec.groups]
        return LoraWeights(
            self.spec,
            {key: a.expand(tasks, *a.shape) for key, a in zip(keys, self.a, strict=True)},
            {key: b.expand(tasks, *b.shape) for key, b in zip(keys, self.b, strict=True)},
        )

    def adapter(self) -> LoraWeights:
        """The adapter itself, without gradient."""
        weights: LoraWeights = self(torch.empty(1, 0))
        return weights.detach()


@final
class Multitask(Baseline):
    """One adapter that was trained on all training tasks together.

    weights: that adapter
    """

    name = "multitask"

    def __init__(self, weights: LoraWeights) -> None:
        self._weights = weights

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The same adapter for every row."""
        return [Setup(adapter="") for _ in rows]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The adapter."""
        return self._weights


@final
class Mean(Baseline):
    """The mean of a library's adapters, factor by factor: the paper's average LoRA."""

    name = "mean"

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    @property
    def about(self) -> Mapping[str, Any]:
        """The library and its size."""
        return {"library": self._library.fingerprint, "adapters": len(self._library)}

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The same adapter for every row."""
        return [Setup(adapter="") for _ in rows]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The mean."""
        return self._library.mean()
