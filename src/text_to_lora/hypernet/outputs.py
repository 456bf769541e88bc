"""What the heads' numbers mean: factors themselves, z-scores, or factors of a scaled ΔW."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from text_to_lora.hypernet.heads import Factors, module_name
from text_to_lora.lora.spec import Group
from text_to_lora.lora.weights import LoraWeights

_MIN_DEVIATION: Final = 1e-10  # added to every standard deviation, as in the reference


class Output(nn.Module, ABC):
    """Turns what a head predicts into the factors of adapters, in place.

    In place, since the factors are by far the largest tensors of a pass; no gradient needs the
    numbers that are overwritten.
    """

    @abstractmethod
    def forward(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """Per group key A [tasks, slots, rank, in] and B [tasks, slots, out, rank] to the same."""

    @abstractmethod
    def invert(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """What a head has to predict for these factors; new tensors where they differ."""


@final
class Direct(Output):
    """The factors themselves."""

    def forward(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.forward."""
        return a, b

    def invert(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.invert."""
        return a, b


@final
class Delta(Output):
    """Factors of ΔW times `scaling`: each is divided by sqrt(scaling).

    Source: Text-to-LoRA (arXiv 2506.06105), released code, reconstruction of ΔW.
    """

    def __init__(self, scaling: float) -> None:
        super().__init__()
        self.root = math.sqrt(scaling)

    def forward(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.forward."""
        return (
            {key: factor.div_(self.root) for key, factor in a.items()},
            {key: factor.div_(self.root) for key, factor in b.items()},
        )

    def invert(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.invert."""
        return (
            {key: factor * self.root for key, factor in a.items()},
            {key: factor * self.root for key, factor in b.items()},
        )


class _Moments(nn.Module):
    """Mean and standard deviation of one factor over a library of adapters."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(*shape))
        self.register_buffer("std", torch.empty(*shape))

    def forward(self, scores: Tensor) -> Tensor:
        """z-scores [tasks, slots, ...] to values."""
        return scores.mul_(self.std + _MIN_DEVIATION).add_(self.mean)

    def invert(self, values: Tensor) -> Tensor:
        """Values [tasks, slots, ...] to z-scores."""
        return (values - self.mean).div_(self.std + _MIN_DEVIATION)


@final
class ZScore(Output):
    """z · (std + 1e-10) + mean, with the moments of a library of adapters.

    Source: Text-to-LoRA (arXiv 2506.06105), released code, reconstruction of factors.
    """

    def __init__(self, groups: Sequence[Group], rank: int) -> None:
        super().__init__()
        self.a = nn.ModuleDict()
        self.b = nn.ModuleDict()
        for group in groups:
            name, slots = module_name(group.key), len(group.layers)
            self.a[name] = _Moments((slots, rank, group.in_features))
            self.b[name] = _Moments((slots, group.out_features, rank))

    def forward(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.forward."""
        return (
            {key: self.a[module_name(key)](scores) for key, scores in a.items()},
            {key: self.b[module_name(key)](scores) for key, scores in b.items()},
        )

    def invert(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """See Output.invert."""
        return (
            {key: self._moments(self.a, key).invert(values) for key, values in a.items()},
            {key: self._moments(self.b, key).invert(values) for key, values in b.items()},
        )

    @staticmethod
    def _moments(side: nn.ModuleDict, key: str) -> _Moments:
        moments = side[module_name(key)]
        assert isinstance(moments, _Moments)
        return moments

    @torch.no_grad()
    def set_library(self, library: LoraWeights) -> None:
        """Take the mean and the unbiased standard deviation of a library of adapters."""
        for side, factors in ((self.a, library.a), (self.b, library.b)):
            for key, values in factors.items():
                std, mean = torch.std_mean(values.float(), dim=0)
                side[module_name(key)].get_buffer("mean").copy_(mean)
                side[module_name(key)].get_buffer("std").copy_(std)
