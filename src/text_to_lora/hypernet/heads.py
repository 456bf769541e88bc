"""The three heads, latent codes to A and B: joint (L), shared (M), rank (S)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from text_to_lora.choices import HeadName
from text_to_lora.hypernet.backbone import Backbone
from text_to_lora.hypernet.layers import Drawn, Embedding, HeadLinear, LayerNorm
from text_to_lora.lora.spec import Group

Factors = dict[str, Tensor]


class Head(nn.Module, ABC):
    """Predicts A and B of every group from the latent codes of all slots.

    groups: of the spec, in its order; rank: of the adapters
    latent_size, head_in_size: widths of the backbone; bias: whether the last products have one
    """

    def __init__(
        self, *, groups: Sequence[Group], rank: int, latent_size: int, head_in_size: int, bias: bool
    ) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.rank = rank
        self.sizes = [len(group.layers) for group in groups]  # slots of each group
        self._build(latent_size, head_in_size, bias)

    @abstractmethod
    def _build(self, latent_size: int, head_in_size: int, bias: bool) -> None:
        """Make the parameters."""

    @abstractmethod
    def forward(self, latent: Tensor, backbone: Backbone) -> tuple[Factors, Factors]:
        """Predict all factors from latent codes [tasks, slots, latent], slots group by group.

        Returns per group key A [tasks, slots, rank, in] and B [tasks, slots, out, rank].
        """

    @abstractmethod
    def start_as_lora(self, generator: torch.Generator | None) -> None:
        """Bias-HyperInit: weights of zero and a bias that is a fresh LoRA, equal for all tasks.

        A ~ U(-1/sqrt(in), 1/sqrt(in)), PEFT's kaiming_uniform(a=sqrt(5)).
        Source: Beck et al. (2023); Text-to-LoRA (arXiv 2506.06105).
        """

    def _slices(self, hidden: Tensor, dim: int) -> Iterator[tuple[Group, Tensor]]:
        """Each group with its slots."""
        return zip(self.groups, torch.split(hidden, self.sizes, dim=dim), strict=True)


@final
class JointHead(Head):
    """L: one product gives A, another B, all ranks at once."""

    def _build(self, latent_size: int, head_in_size: int, bias: bool) -> None:
        self.a = _linears(
            head_in_size, {g.key: self.rank * g.in_features for g in self.groups}, bias
        )
        self.b = _linears(
            head_in_size, {g.key: self.rank * g.out_features for g in self.groups}, bias
        )

    def forward(self, latent: Tensor, backbone: Backbone) -> tuple[Factors, Factors]:
        """See Head.forward."""
        hidden = backbone.mlp3(backbone.mlp2(latent))  # [tasks, slots, head_in]
        a, b = {}, {}
        for group, part in self._slices(hidden, 1):
            name = module_name(group.key)
            a[group.key] = self.a[name](part).unflatten(-1, (self.rank, group.in_features))
            b[group.key] = self.b[name](part).unflatten(-1, (group.out_features, self.rank))
        return a, b

    def start_as_lora(self, generator: torch.Generator | None) -> None:
        """See Head.start_as_lora; B is zero, so that ΔW is zero at first."""
        for group in self.groups:
            name = module_name(group.key)
            _set_bias(self.a[name], 1 / math.sqrt(group.in_features), generator)
            _set_bias(self.b[name], 0.0, generator)


class _SideHead(Drawn, Head):
    """What M and S share: a learned code that tells A from B, added before `mlp2`."""

    def _build(self, latent_size: int, head_in_size: int, bias: bool) -> None:
        # row 0 of a group is A's code, row 1 is B's
        self.side_codes = nn.Parameter(torch.empty(len(self.groups), 2, latent_size))
        self.side_norm = LayerNorm(latent_size)
        widths = {g.key: self._width(g) for g in self.groups}
        self.linears = _linears(head_in_size, widths, bias)

    def draw(self, generator: torch.Generator | None) -> None:
        """N(0, 1) for the codes."""
        self.side_codes.normal_(generator=generator)

    @abstractmethod
    def _width(self, group: Group) -> int:
        """Output width of a group's product."""

    def _sides(self, latent: Tensor, backbone: Backbone) -> Tensor:
        """Latent codes [tasks, slots, latent] of A and of B, [tasks, 2, slots, latent]."""
        codes = self.side_norm(self.side_codes).transpose(0, 1)  # [2, groups, latent]
        codes = codes.index_select(1, backbone.type_index)  # [2, slots, latent]
        sides: Tensor = backbone.mlp2(latent[:, None] + codes)
        return sides


@final
class SharedHead(_SideHead):
    """M: one product for A and B, all ranks at once, of width rank · max(in, out), cut to fit."""

    def _width(self, group: Group) -> int:
        return self.rank * max(group.in_features, group.out_features)

    def forward(self, latent: Tensor, backbone: Backbone) -> tuple[Factors, Factors]:
        """See Head.forward."""
        hidden = backbone.mlp3(self._sides(latent, backbone))  # [tasks, 2, slots, head_in]
        a, b = {}, {}
        for group, part in self._slices(hidden, 2):
            linear = self.linears[module_name(group.key)]
            a[group.key] = self._product(linear, part[:, 0], group.in_features)
            b[group.key] = self._product(linear, part[:, 1], group.out_features).mT
        return a, b

    def _product(self, linear: nn.Module, hidden: Tensor, width: int) -> Tensor:
        """The first `width` columns of every rank row, [tasks, slots, rank, width]."""
        product: Tensor = linear(hidden, rows=self.rank, width=width)
        return torch.unflatten(product, -1, (self.rank, width))

    def start_as_lora(self, generator: torch.Generator | None) -> None:
        """See Head.start_as_lora; bias A0 / sqrt(2) serves A and B, so ΔW is not zero at first.

        The reference needs in >= out. Columns beyond `in`, which only B reads, are drawn like A0.
        """
        for group in self.groups:
            bound = 1 / math.sqrt(2 * group.in_features)
            _set_bias(self.linears[module_name(group.key)], bound, generator)


@final
class RankHead(_SideHead):
    """S: one product for each rank row of A and of B, of width max(in, out), cut to fit."""

    def _build(self, latent_size: int, head_in_size: int, bias: bool) -> None:
        super()._build(latent_size, head_in_size, bias)
        self.rank_encoder = nn.Sequential(Embedding(self.rank, latent_size), LayerNorm(latent_size))

    def _width(self, group: Group) -> int:
        return max(group.in_features, group.out_features)

    def forward(self, latent: Tensor, backbone: Backbone) -> tuple[Factors, Factors]:
        """See Head.forward."""
        ranks = torch.arange(self.rank, device=latent.device)
        rank_codes = backbone.mlp2(self.rank_encoder(ranks))  # [rank, latent]
        sides = self._sides(latent, backbone)[..., None, :] + rank_codes
        hidden = backbone.mlp3(sides)  # [tasks, 2, slots, rank, head_in]
        a, b = {}, {}
        for group, part in self._slices(hidden, 2):
            linear = self.linears[module_name(group.key)]
            a[group.key] = linear(part[:, 0], width=group.in_features)
            b[group.key] = linear(part[:, 1], width=group.out_features).mT
        return a, b

    def start_as_lora(self, generator: torch.Generator | None) -> None:
        """See Head.start_as_lora; bias A0[row] / sqrt(2 · rank) serves every row of A and of B.

        The reference needs in >= out. Columns beyond `in`, which only B reads, are drawn like A0.
        """
        for group in self.groups:
            bound = 1 / math.sqrt(2 * self.rank * group.in_features)
            _set_bias(self.linears[module_name(group.key)], bound, generator)


def module_name(key: str) -> str:
    """A group's key as the name of a submodule, which may hold no dot."""
    return key.replace(".", "/")


def _linears(in_size: int, widths: Mapping[str, int], bias: bool) -> nn.ModuleDict:
    return nn.ModuleDict(
        {module_name(key): HeadLinear(in_size, width, bias=bias) for key, width in widths.items()}
    )


@torch.no_grad()
def _set_bias(linear: nn.Module, bound: float, generator: torch.Generator | None) -> None:
    """Weight zero, bias uniform within the bound."""
    linear.get_parameter("weight").zero_()
    linear.get_parameter("bias").uniform_(-bound, bound, generator=generator)


HEADS: Final[Mapping[HeadName, type[Head]]] = {
    "joint": JointHead,
    "shared": SharedHead,
    "rank": RankHead,
}
