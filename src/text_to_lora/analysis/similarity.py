"""Similarity of adapters beside similarity of their descriptions, over all pairs of a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from text_to_lora.errors import ConfigError
from text_to_lora.lora.weights import LoraWeights

Floats = NDArray[numpy.float64]

RESAMPLES = 2000
LEVEL = 0.95
NO_SPREAD = 1e-12  # product of variances, of that over all pairs; below, rounding is all there is


@dataclass(frozen=True)
class Correlation:
    """Correlation of two similarities over pairs of tasks.

    low, high: ends of the 95% interval; None where one cannot be given
    pairs: how many pairs it is over
    """

    value: float
    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True)
class PairCorrelations:
    """Pearson's and Spearman's correlation over the same pairs."""

    pearson: Correlation
    spearman: Correlation


def vector_cosines(vectors: Tensor) -> Tensor:
    """Cosine between each pair of vectors [tasks, size], fp64 [tasks, tasks].

    A vector of zeros has cosine 0 with every other.
    """
    return _cosines(vectors.double() @ vectors.double().mT)


def factor_cosines(weights: LoraWeights, *, centred: bool = False) -> Tensor:
    """Cosine between the flattened factors A and B of each pair of adapters, [adapters, adapters].

    centred: of what differs from the mean adapter; adapters that start from one A share most of it
    An adapter of zeros has cosine 0 with every other.
    Source: Text-to-LoRA (arXiv 2506.06105), appendix D.
    """
    adapters = weights.num_adapters
    products = torch.zeros(adapters, adapters, dtype=torch.float64, device=weights.device)
    for tensor in (*weights.a.values(), *weights.b.values()):
        flat = tensor.flatten(1).double()
        if centred:
            flat = flat - flat.mean(dim=0)
        products += flat @ flat.mT
    return _cosines(products)


def pair_values(matrix: Tensor) -> Floats:
    """Values of a symmetric matrix [tasks, tasks] for each pair once, [pairs].

    Row by row above the diagonal: (0, 1), (0, 2), ..., (1, 2), ...
    """
    values: Floats = matrix.double().cpu().numpy()
    above: Floats = values[numpy.triu_indices(len(values), 1)]
    return above


def correlate_pairs(
    left: Tensor,
    right: Tensor,
    groups: Sequence[str],
    *,
    across_groups: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairCorrelations:
    """Correlate two similarities [tasks, tasks] over pairs of different tasks.

    Pairs share tasks, and tasks share data sets: they are no independent points. The intervals come
    from resampling source groups with replacement, as if a group drawn twice were two groups: a pair
    of two groups counts as often as the product of their counts says, a pair of one group as often
    as its group is drawn. (Pairs across copies of a group would be counted as well by the product of
    counts alone, and there are no such pairs of tasks: the interval would lean towards what pairs of
    one group have.) Spearman's ranks are taken once, over all pairs.

    groups: source group of each task
    across_groups: leave out pairs of one group, which share their data

    Raises ConfigError when shapes do not fit, when fewer than three pairs or two groups are left, or
    when one of the similarities is the same for all pairs.
    """
    tasks = len(groups)
    shapes = (tuple(left.shape), tuple(right.shape))
    if shapes != ((tasks, tasks), (tasks, tasks)):
        raise ConfigError(f"similarities are {shapes}; [{tasks}, {tasks}] twice is needed")
    names = sorted(set(groups))
    group_of = numpy.array([names.index(group) for group in groups])
    first, second = numpy.triu_indices(tasks, 1)
    if across_groups:
        apart = group_of[first] != group_of[second]
        first, second = first[apart], second[apart]
    if len(first) < 3 or len(names) < 2:
        raise ConfigError(
            f"{len(first)} pairs of {len(names)} source groups are too few to correlate; "
            "give at least three pairs of two groups"
        )
    from scipy.stats import rankdata

    x, y = (matrix.double().cpu().numpy()[first, second] for matrix in (left, right))
    if x.min() == x.max() or y.min() == y.max():
        raise ConfigError("a similarity is the same for all pairs; it correlates with nothing")
    rng = numpy.random.default_rng(seed)
    drawn = rng.integers(0, len(names), size=(resamples, len(names)))
    times = numpy.zeros((resamples, len(names)))
    numpy.add.at(times, (numpy.arange(resamples)[:, None], drawn), 1)
    counts = times[:, group_of]  # [resamples, tasks]
    places, apart = (first, second), group_of[first] != group_of[second]
    return PairCorrelations(
        pearson=_correlation(x, y, places, apart, counts),
        spearman=_correlation(rankdata(x), rankdata(y), places, apart, counts),
    )


def _correlation(
    x: Floats,
    y: Floats,
    places: tuple[NDArray[numpy.intp], NDArray[numpy.intp]],
    apart: NDArray[numpy.bool_],
    counts: Floats,
) -> Correlation:
    """Correlation over all pairs, with percentiles of it over the resamples.

    x, y: of the pairs; apart: whether its tasks are of two groups
    counts: how often each task is drawn, [resamples, tasks]
    """
    tasks = counts.shape[1]
    x, y = x - x.mean(), y - y.mean()  # keeps digits; a correlation does not change

    def summed(values: Floats) -> Floats:
        """Sum over pairs, each as often as it is drawn, [1 + resamples]."""
        matrix = numpy.zeros((tasks, tasks))
        matrix[places] = numpy.where(apart, values, 0)
        within = numpy.bincount(places[0], numpy.where(apart, 0, values), minlength=tasks)
        resampled = numpy.einsum("rt,rt->r", counts @ matrix, counts) + counts @ within
        return numpy.concatenate([[values.sum()], resampled])

    number = summed(numpy.ones_like(x))
    number = number.clip(min=1)  # a draw of one group of one task has no pair, and no spread
    mean_x, mean_y = summed(x) / number, summed(y) / number
    covariance = summed(x * y) / number - mean_x * mean_y
    spread = (summed(x * x) / number - mean_x**2) * (summed(y * y) / number - mean_y**2)
    known = spread > NO_SPREAD * spread[0]
    values = covariance[known] / numpy.sqrt(spread[known])
    resampled = values[1:]
    low = high = None
    if len(resampled):
        tail = 50 * (1 - LEVEL)
        low, high = (float(end) for end in numpy.percentile(resampled, [tail, 100 - tail]))
    return Correlation(float(values[0]), low, high, len(x))


def _cosines(products: Tensor) -> Tensor:
    lengths = products.diagonal().clamp_min(0).sqrt()
    scale = torch.outer(lengths, lengths)
    return torch.where(scale > 0, products / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)
