"""Backbone: task embedding and slot to latent code; what all three architectures share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from text_to_lora.hypernet.layers import Embedding, LayerNorm, Linear, wide

_WIDENING = 4  # width of every hidden layer, in latent sizes


class Residual(nn.Module):
    """x + MLP(LayerNorm(x))."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(LayerNorm(size), *_mlp(size, size, dropout), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same shape."""
        out: Tensor = x + self.mlp(x)
        return out


class Backbone(nn.Module):
    """The network below the heads; one pass over all tasks and all slots.

    task_vector_dim: width of the vectors that are learned for the places of one-hot embeddings;
        None for embeddings that are read as they are
    depth_index, type_index: rows of the depth and of the type embedding for each slot [slots]
    Source: Text-to-LoRA (arXiv 2506.06105), equation 4 and released code.
    """

    depth_index: Tensor
    type_index: Tensor

    def __init__(
        self,
        *,
        embedding_dim: int,
        task_vector_dim: int | None = None,
        depth_index: Sequence[int],
        type_index: Sequence[int],
        latent_size: int,
        head_in_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        for name, index in (("depth_index", depth_index), ("type_index", type_index)):
            # on the CPU also when the parameters are built on the meta device
            self.register_buffer(name, torch.tensor(index, device="cpu"), persistent=False)
        half, quarter = latent_size // 2, latent_size // 4
        self.task_vectors = None
        if task_vector_dim is not None:
            self.task_vectors = Embedding(embedding_dim, task_vector_dim)
        read_dim = embedding_dim if task_vector_dim is None else task_vector_dim
        self.task_encoder = nn.Sequential(Linear(read_dim, half), LayerNorm(half))
        self.depth_encoder = _lookup(max(depth_index) + 1, quarter)
        self.type_encoder = _lookup(max(type_index) + 1, quarter)
        self.mixer = nn.Sequential(
            nn.Dropout(dropout), *_mlp(latent_size, latent_size, dropout), nn.Dropout(dropout)
        )
        self.mlp1 = Residual(latent_size, dropout)
        self.mlp2 = Residual(latent_size, dropout)
        self.mlp3 = nn.Sequential(LayerNorm(latent_size), *_mlp(latent_size, head_in_size, dropout))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Join every task embedding [tasks, embedding_dim] with every slot.

        Returns [tasks, slots, latent_size]. `mlp2` and `mlp3` come later: the heads add their
        codes before and between them.
        """
        if self.task_vectors is not None:
            embeddings = embeddings @ wide(self.task_vectors.weight)  # [tasks, task_vector_dim]
        task = self.task_encoder(embeddings)  # [tasks, half]
        slot = torch.cat(
            [self.depth_encoder(self.depth_index), self.type_encoder(self.type_index)], dim=-1
        )
        tasks, slots = len(task), len(slot)
        joined = torch.cat(
            [task[:, None].expand(-1, slots, -1), slot.expand(tasks, -1, -1)], dim=-1
        )
        latent: Tensor = self.mlp1(self.mixer(joined))
        return latent


def _mlp(size: int, out_size: int, dropout: float) -> list[nn.Module]:
    hidden = _WIDENING * size
    return [
        Linear(size, hidden),
        nn.SiLU(),
        nn.Dropout(dropout),
        Linear(hidden, out_size),
        nn.SiLU(),
    ]


def _lookup(rows: int, size: int) -> nn.Sequential:
    return nn.Sequential(Embedding(rows, size), LayerNorm(size))
