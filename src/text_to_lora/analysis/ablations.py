"""Cells of one change each against a default: differences, the noise floor of seeds, a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.stats import GroupBootstrap, Interval

Verdict = Literal["better", "worse", "none"]
Means = Mapping[str, float]
"""Mean answer NLL of each task, nats a token."""


@dataclass(frozen=True)
class Change:
    """One cell against the default.

    difference: its NLL minus the default's, paired by task
    verdict: "none" where the difference is within the noise floor or its interval spans zero
    """

    difference: Interval
    verdict: Verdict


def noise_floor(seeds: Sequence[Means], bootstrap: GroupBootstrap) -> float:
    """The largest difference in mean NLL between two seeds of the default, nats a token.

    Raises ConfigError for less than two seeds.
    """
    if len(seeds) < 2:
        raise ConfigError(f"{len(seeds)} seeds of the default; a noise floor needs 2 or more")
    return max(abs(difference(a, b, bootstrap).mean) for a, b in combinations(seeds, 2))


def difference(first: Means, second: Means, bootstrap: GroupBootstrap) -> Interval:
    """Mean over groups of first - second on the tasks that both have.

    Raises ConfigError when there is none.
    """
    return bootstrap.mean({name: first[name] - second[name] for name in first if name in second})


def mean_of(seeds: Sequence[Means]) -> dict[str, float]:
    """Mean of each task over seeds, on the tasks that all have."""
    common = set.intersection(*(set(seed) for seed in seeds))
    return {name: sum(s[name] for s in seeds) / len(seeds) for name in seeds[0] if name in common}


def judge_change(
    cell: Means, default: Means, floor: float | None, bootstrap: GroupBootstrap
) -> Change:
    """Compare a cell with the default.

    floor: noise floor, nats a token; None where it is not known, then nothing but the interval counts
    """
    found = difference(cell, default, bootstrap)
    real = found.clear_of_zero and abs(found.mean) > (floor or 0.0)
    return Change(found, "none" if not real else "better" if found.mean < 0 else "worse")


def plot_changes(changes: Mapping[str, Change], floor: float | None, path: Path) -> None:
    """Draw each cell's difference with its interval, and the noise floor as a band."""
    from matplotlib.figure import Figure

    colors = {"better": "#1b7837", "worse": "#b2182b", "none": "0.45"}
    figure = Figure(figsize=(7.5, 1.2 + 0.34 * len(changes)), layout="constrained")
    axes = figure.subplots()
    if floor is not None:
        axes.axvspan(-floor, floor, color="0.9", label="noise floor: largest difference of seeds")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    for place, change in enumerate(changes.values()):
        interval, color = change.difference, colors[change.verdict]
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [place, place], color=color)
        axes.plot(interval.mean, place, "o", color=color)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(changes)), list(changes))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("answer NLL minus the default's (left is better)")
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def plot_series(
    series: Mapping[str, Sequence[tuple[float, Interval]]],
    path: Path,
    *,
    label: str,
    levels: Mapping[str, float],
) -> None:
    """Draw NLL against a number, a line for each condition, and levels that do not depend on it.

    series: per condition (number, NLL), numbers rising
    label: of the number
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        numbers = [number for number, _ in points]
        axes.plot(numbers, [interval.mean for _, interval in points], "o-", label=name)
    for name, level in levels.items():
        axes.axhline(level, linestyle=":", color="0.4")
        axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), fontsize="small")
    axes.set_xscale("log", base=2)
    ticks = sorted({number for points in series.values() for number, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("answer NLL, nats per token (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
