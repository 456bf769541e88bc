"""StaticAdapter: one trainable LoRA for all tasks."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights


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
