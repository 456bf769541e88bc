"""From the numbers of a head to factors: as they are, as z-scores, or as parts of a scaled ΔW."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn

from text_to_lora.hypernet.heads import Factors, module_name
from text_to_lora.hypernet.layers import Drawn
from text_to_lora.lora.spec import Group
from text_to_lora.lora.weights import LoraWeights

_MIN_DEVIATION: Final = 1e-10  # added to every standard deviation, as in the reference


class Output(nn.Module, ABC):
    """Turns what a head predicts into the factors of adapters, in place.

    In place, since the factors are by far the largest tensors of a pass; no gradient needs the
    numbers that are overwritten.
    """

    def forward(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """Per group key A [tasks, slots, rank, in] and B [tasks, slots, out, rank] to the same."""
        return (
            {key: self._to_factor("a", key, numbers) for key, numbers in a.items()},
            {key: self._to_factor("b", key, numbers) for key, numbers in b.items()},
        )

    def invert(self, a: Factors, b: Factors) -> tuple[Factors, Factors]:
        """What a head has to predict for these factors; new tensors where they differ."""
        return (
            {key: self._to_numbers("a", key, factor) for key, factor in a.items()},
            {key: self._to_numbers("b", key, factor) for key, factor in b.items()},
        )

    @abstractmethod
    def _to_factor(self, side: str, key: str, numbers: Tensor) -> Tensor:
        """One factor from what a head predicts, in place."""

    @abstractmethod
    def _to_numbers(self, side: str, key: str, factor: Tensor) -> Tensor:
        """What a head has to predict for one factor, which stays as it is."""


@final
class Direct(Output):
    """The factors themselves."""

    def _to_factor(self, side: str, key: str, numbers: Tensor) -> Tensor:
        return numbers

    def _to_numbers(self, side: str, key: str, factor: Tensor) -> Tensor:
        return factor


@final
class Delta(Output):
    """Factors of ΔW times `scaling`: each is divided by sqrt(scaling).

    Source: Text-to-LoRA (arXiv 2506.06105), released code, reconstruction of ΔW.
    """

    def __init__(self, scaling: float) -> None:
        super().__init__()
        self.root = math.sqrt(scaling)

    def _to_factor(self, side: str, key: str, numbers: Tensor) -> Tensor:
        return numbers.div_(self.root)

    def _to_numbers(self, side: str, key: str, factor: Tensor) -> Tensor:
        return factor * self.root


class _Moments(Drawn, nn.Module):
    """Mean and standard deviation of one factor over a library of adapters."""

    mean: Tensor
    std: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(shape))
        self.register_buffer("std", torch.empty(shape))

    def draw(self, generator: torch.Generator | None) -> None:
        self.mean.zero_()
        self.std.fill_(1.0)


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
            self.a[name] = _Moments(slots, rank, group.in_features)
            self.b[name] = _Moments(slots, group.out_features, rank)

    def _to_factor(self, side: str, key: str, numbers: Tensor) -> Tensor:
        moments = self._moments(side, key)
        return numbers.mul_(moments.std + _MIN_DEVIATION).add_(moments.mean)

    def _to_numbers(self, side: str, key: str, factor: Tensor) -> Tensor:
        moments = self._moments(side, key)
        return (factor - moments.mean).div_(moments.std + _MIN_DEVIATION)

    def _moments(self, side: str, key: str) -> _Moments:
        moments = (self.a if side == "a" else self.b)[module_name(key)]
        assert isinstance(moments, _Moments)
        return moments

    @torch.no_grad()
    def set_library(self, library: LoraWeights) -> None:
        """Take the mean and the unbiased standard deviation of a library of adapters."""
        for side, factors in (("a", library.a), ("b", library.b)):
            for key, values in factors.items():
                std, mean = torch.std_mean(values.float(), dim=0)
                self._moments(side, key).mean.copy_(mean)
                self._moments(side, key).std.copy_(std)
