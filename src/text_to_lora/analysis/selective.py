"""Selective use: what is risked when the surest descriptions alone are answered; AUROC; intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from text_to_lora.errors import ConfigError

Floats = NDArray[numpy.float64]

RESAMPLES = 2000
LEVEL = 0.95
CURVE_POINTS = 50  # of a curve as it is written down


@dataclass(frozen=True)
class Selective:
    """Loss of descriptions, and the groups that they are resampled by.

    losses: what accepting each costs, [items]; groups: of each item
    Every group counts once, however many descriptions it has.
    """

    losses: Floats
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.losses) or len(self.losses) != len(self.groups):
            raise ConfigError(
                f"{len(self.losses)} losses for {len(self.groups)} groups; one each is needed"
            )

    def curve(self, scores: Floats) -> tuple[Floats, Floats]:
        """Risk by coverage when descriptions are accepted in order of score, highest first.

        Returns share accepted and mean loss of these, [items] each. Equal scores are accepted in
        random order, of which this is the expectation.
        """
        weights = self._weights(None)
        coverage, risk = _curves(self.losses, scores, weights[None])
        return coverage[0], risk[0]

    def area(self, scores: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Mean risk over all coverages, with a 95% interval by resampling groups."""
        own, drawn = self._areas(scores, resamples, seed)
        return _interval(own, drawn)

    def difference(
        self, scores: Floats, others: Floats, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, Any]:
        """Paired difference of areas, first minus second, over the same resamples."""
        own, drawn = self._areas(scores, resamples, seed)
        other, other_drawn = self._areas(others, resamples, seed)
        found = _interval(own - other, drawn - other_drawn)
        found["share_below_zero"] = float((drawn < other_drawn).mean())
        return found

    def _areas(self, scores: Floats, resamples: int, seed: int) -> tuple[float, Floats]:
        own = _areas(self.losses, scores, self._weights(None)[None])
        rng = numpy.random.default_rng(seed)
        names = len(set(self.groups))
        times = _times(rng, names, resamples)
        return float(own[0]), _areas(self.losses, scores, self._weights(times))

    def _weights(self, times: Floats | None) -> Floats:
        """Weight of each item: its group's draws, shared among the group's items."""
        names = sorted(set(self.groups))
        place = numpy.array([names.index(group) for group in self.groups])
        share: Floats = 1 / numpy.bincount(place)[place]
        if times is None:
            return share
        weights: Floats = times[:, place] * share
        return weights


def auroc(
    positives: Floats,
    negatives: Floats,
    *,
    positive_groups: Sequence[str] | None = None,
    negative_groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a positive scores higher than a negative, ties half; 95% interval.

    positive_groups, negative_groups: what is resampled, both sides on their own; None: each item

    Raises ConfigError when a side is empty.
    """
    if not len(positives) or not len(negatives):
        raise ConfigError(f"{len(positives)} positives and {len(negatives)} negatives; need both")
    wins = (positives[:, None] > negatives[None]) + 0.5 * (positives[:, None] == negatives[None])
    rng = numpy.random.default_rng(seed)
    sides = []
    for groups, count in ((positive_groups, len(positives)), (negative_groups, len(negatives))):
        units = list(map(str, range(count))) if groups is None else list(groups)
        names = sorted(set(units))
        place = numpy.array([names.index(unit) for unit in units])
        sides.append(_times(rng, len(names), resamples)[:, place])
    weighted = numpy.einsum("rp,pn,rn->r", sides[0], wins, sides[1], optimize=True)
    drawn = weighted / (sides[0].sum(1) * sides[1].sum(1))
    return _interval(float(wins.mean()), drawn)


def thinned(coverage: Floats, risk: Floats) -> dict[str, list[float]]:
    """A curve with CURVE_POINTS points at most, as JSON values."""
    count = min(CURVE_POINTS, len(coverage))
    places = numpy.unique(numpy.linspace(0, len(coverage) - 1, count).round().astype(int))
    return {
        "coverage": coverage[places].round(4).tolist(),
        "risk": risk[places].round(4).tolist(),
    }


def compare(
    problem: Selective, scores: Mapping[str, Floats], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Curve and area of each way of scoring, and how the first differs from each other one."""
    first = next(iter(scores))
    report: dict[str, dict[str, Any]] = {"curves": {}, "areas": {}, "differences": {}}
    for name, values in scores.items():
        report["curves"][name] = thinned(*problem.curve(values))
        report["areas"][name] = problem.area(values, seed=seed)
        if name != first:
            report["differences"][f"{first} - {name}"] = problem.difference(
                scores[first], values, seed=seed
            )
    return report


def _curves(losses: Floats, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Coverage and risk under several weightings of the items, [weightings, items] each."""
    order = numpy.argsort(-scores, kind="stable")
    scores, losses, weights = scores[order], losses[order], weights[:, order]
    starts = numpy.flatnonzero(numpy.r_[True, scores[1:] != scores[:-1]])
    block = numpy.repeat(numpy.arange(len(starts)), numpy.diff(numpy.r_[starts, len(scores)]))
    mass = numpy.add.reduceat(weights, starts, axis=1)
    loss = numpy.add.reduceat(weights * losses, starts, axis=1)
    # Among equal scores every item counts with their mean loss.
    means = numpy.divide(loss, mass, out=numpy.zeros_like(loss), where=mass > 0)
    accepted = weights.cumsum(axis=1)
    summed = (weights * means[:, block]).cumsum(axis=1)
    risk = numpy.divide(summed, accepted, out=numpy.zeros_like(summed), where=accepted > 0)
    return accepted / accepted[:, -1:], risk


def _areas(losses: Floats, scores: Floats, weights: Floats) -> Floats:
    """Mean of the risk over coverage, [weightings]."""
    coverage, risk = _curves(losses, scores, weights)
    steps = numpy.diff(coverage, axis=1, prepend=0)
    areas: Floats = (steps * risk).sum(axis=1)
    return areas


def _times(rng: numpy.random.Generator, names: int, resamples: int) -> Floats:
    """How often each name is drawn, [resamples, names]."""
    return rng.multinomial(names, numpy.full(names, 1 / names), size=resamples).astype(float)


def _interval(value: float, drawn: Floats) -> dict[str, Any]:
    tail = 50 * (1 - LEVEL)
    low, high = numpy.percentile(drawn, [tail, 100 - tail])
    return {"mean": float(value), "low": float(low), "high": float(high)}
