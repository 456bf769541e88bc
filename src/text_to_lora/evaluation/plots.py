"""Plots of a report: a dot with its interval for each condition, a slope for each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "nll": "answer NLL, nats per token (lower is better)",
    "score": "score (higher is better)",
}
BETTER, WORSE, DOT = "#1b7837", "#b2182b", "#2166ac"


def plot_conditions(report: Mapping[str, Any], path: Path) -> None:
    """Draw each condition's mean and interval, likelihood beside score."""
    conditions = report["conditions"]
    figure = _figure(height=1.2 + 0.35 * len(conditions))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), TITLES, strict=True):
        for place, condition in enumerate(conditions.values()):
            interval = condition[measure]
            if interval is None:
                continue
            if interval["low"] is not None:
                axes.plot([interval["low"], interval["high"]], [place, place], color=DOT)
            axes.plot(interval["mean"], place, "o", color=DOT)
        axes.set_yticks(range(len(conditions)), list(conditions))
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(TITLES[measure])
    figure.axes[0].invert_yaxis()
    _save(figure, path)


def plot_slopes(report: Mapping[str, Any], path: Path) -> None:
    """Draw a line for each task from shuffled to matched; green where matched is better."""
    figure = _figure(height=5.5)
    for axes, (measure, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        for task in report["tasks"].values():
            ends = [task["conditions"][name][measure] for name in ("shuffled", "matched")]
            if None not in ends:
                _slope(axes, ends, lower_is_better=measure == "nll")
        axes.set_xticks([0, 1], ["shuffled", "matched"])
        axes.set_xlim(-0.2, 1.2)
        axes.set_title(title, fontsize="medium")
        axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _slope(axes: Axes, ends: list[float], *, lower_is_better: bool) -> None:
    better = ends[1] < ends[0] if lower_is_better else ends[1] > ends[0]
    color = "0.6" if ends[0] == ends[1] else BETTER if better else WORSE
    axes.plot([0, 1], ends, "o-", color=color, alpha=0.7, markersize=3)


def _figure(*, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(10, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
