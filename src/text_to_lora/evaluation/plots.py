"""Plots of a report: conditions, their differences, and the change of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.values import EVEN
from text_to_lora.plots import (
    BETTER,
    NEITHER,
    WORSE,
    draw_interval,
    label_lines,
    new_figure,
    save_figure,
    shorten_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"nll": "NLL, nats per answer token (lower is better)", "score": "score (higher is better)"}
COLORS = {
    "base": "black",
    "in_prompt": "#e08214",
    "icl": "#e08214",
    "matched": BETTER,
    "paraphrase": BETTER,
    "shuffled": NEITHER,
    "junk": NEITHER,
    "oracle": "#1b7837",
}
"""By kind: what is in the prompt, the description's adapter, its controls, the best; others: purple."""

OTHERS = "#762a83"
WIDTH = 11  # inches
NAMED = 6  # tasks with a name in each panel of slopes


def plot_conditions(report: Mapping[str, Any], path: Path) -> None:
    """Draw each condition's mean and interval, likelihood beside score, with a line at base.

    A hollow dot is of fewer tasks than there are; its label says of how many.
    """
    conditions, num_tasks = report["conditions"], len(report["tasks"])
    labels = [
        name if c["tasks"] == num_tasks else f"{name} ({c['tasks']} of {num_tasks} tasks)"
        for name, c in conditions.items()
    ]
    figure = new_figure(WIDTH, 1.3 + 0.32 * len(conditions))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), HEADLINE, strict=True):
        for place, (name, condition) in enumerate(conditions.items()):
            color = COLORS.get(name.split(".")[0], OTHERS)
            hollow = condition["tasks"] < num_tasks
            draw_interval(axes, place, condition[measure], color=color, hollow=hollow)
        if base := conditions.get("base", {}).get(measure):
            axes.axvline(base["mean"], color="black", linestyle="--", linewidth=0.8)
        label_lines(axes, labels, AXES[measure])
    save_figure(figure, path)


def plot_differences(report: Mapping[str, Any], path: Path) -> None:
    """Draw the paired differences, but for those of paraphrases, with a line at zero.

    Blue: better and clear of zero; red: worse and clear of zero; grey: neither.
    """
    differences = {
        name: difference
        for name, difference in report["differences"].items()
        if not name.startswith("paraphrase")
    }
    figure = new_figure(WIDTH, 1.3 + 0.32 * len(differences))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), HEADLINE, strict=True):
        for place, difference in enumerate(differences.values()):
            if interval := difference.get(measure):
                change = MEASURES[measure].sign * interval["mean"]
                color = _color(change) if interval["clear_of_zero"] else NEITHER
                draw_interval(axes, place, interval, color=color)
        axes.axvline(0, color="black", linewidth=0.8)
        label_lines(axes, list(differences), f"difference in {AXES[measure]}")
    save_figure(figure, path)


def plot_slopes(report: Mapping[str, Any], path: Path) -> None:
    """Draw a line for each task from shuffled and from base to matched, as far as they are there.

    Blue where matched is better, red where it is worse; the largest changes have their task's name.
    """
    starts = [name for name in ("shuffled", "base") if name in report["conditions"]]
    figure = new_figure(WIDTH, 0.6 + 4.2 * len(starts))
    grid = figure.subplots(len(starts), len(HEADLINE), squeeze=False)
    for line, start in zip(grid, starts, strict=True):
        for axes, measure in zip(line, HEADLINE, strict=True):
            _draw_slopes(axes, report["tasks"], start, measure)
    save_figure(figure, path)


def plot_tasks(report: Mapping[str, Any], path: Path) -> None:
    """Draw matched minus each other condition in every task, as colours.

    Likelihoods are drawn, or scores where no row has a likelihood. Tasks are in order of the first
    difference, best first; a task that a condition lacks is grey.
    """
    import numpy
    from matplotlib import colormaps

    measure = HEADLINE[0] if report["conditions"]["matched"][HEADLINE[0]] else HEADLINE[1]
    prefix = "matched - "
    others = [d.removeprefix(prefix) for d in report["differences"] if d.startswith(prefix)]
    sign = -MEASURES[measure].sign  # of a change for the worse
    changes = {}
    for name, task in report["tasks"].items():
        means = {
            other: numpy.nan if (mean := task["conditions"][other][measure]) is None else mean
            for other in ("matched", *others)
        }
        if not numpy.isnan(means["matched"]):
            changes[name] = [means["matched"] - means[other] for other in others]
    names = sorted(changes, key=lambda name: (sign * numpy.nan_to_num(changes[name][0]), name))
    values = numpy.array([changes[name] for name in names])
    # The outermost twentieth is clipped: one task must not wash out all others.
    most = float(numpy.nanpercentile(abs(values), 95)) or 1.0
    figure = new_figure(4.5 + 0.55 * len(others), max(4, 1.6 + 0.19 * len(names)))
    axes = figure.subplots()
    colors = colormaps["RdBu_r" if sign > 0 else "RdBu"].with_extremes(bad="0.8")
    image = axes.imshow(values, cmap=colors, vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(others)), others, rotation=45, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), map(shorten_name, names), fontsize="x-small")
    title = f"{MEASURES[measure].title}, matched minus the other\n(blue: matched is better)"
    figure.colorbar(image, label=title, extend="both")
    save_figure(figure, path)


def move_apart(places: Sequence[float], gap: float) -> list[float]:
    """Move the places of labels as little as keeps neighbours `gap` apart, in their order."""
    import numpy
    from scipy.optimize import isotonic_regression

    if not places:
        return []
    order = numpy.argsort(places, kind="stable")
    steps = gap * numpy.arange(len(places))
    moved = numpy.empty(len(places))
    moved[order] = isotonic_regression(numpy.array(places)[order] - steps).x + steps
    return [float(place) for place in moved]


def _draw_slopes(axes: Axes, tasks: Mapping[str, Any], start: str, measure: str) -> None:
    ends = {
        name: [task["conditions"][condition][measure] for condition in (start, "matched")]
        for name, task in tasks.items()
    }
    ends = {name: pair for name, pair in ends.items() if None not in pair}
    changes = {name: MEASURES[measure].sign * (b - a) for name, (a, b) in ends.items()}
    for name, pair in ends.items():
        axes.plot([0, 1], pair, "o-", markersize=3, alpha=0.7, color=_color(changes[name]))
    largest = sorted(changes, key=lambda name: -abs(changes[name]))[:NAMED]
    largest = [name for name in largest if abs(changes[name]) > EVEN]
    low, high = axes.get_ylim()
    places = move_apart([ends[name][1] for name in largest], 0.05 * (high - low))
    for name, place in zip(largest, places, strict=True):
        color = _color(changes[name])
        axes.plot([1, 1.12], [ends[name][1], place], linewidth=0.6, color=color)
        axes.text(1.14, place, shorten_name(name, 34), fontsize="x-small", va="center", color=color)
    axes.set_xticks([0, 1], [start, "matched"])
    axes.set_xlim(-0.1, 2.6)  # room for names
    better = sum(change > EVEN for change in changes.values())
    axes.set_title(f"{AXES[measure]}: better in {better} of {len(ends)} tasks", fontsize="small")
    axes.grid(axis="y", alpha=0.3)


def _color(change: float) -> str:
    """The colour of a change of which more is better."""
    return NEITHER if abs(change) <= EVEN else BETTER if change > 0 else WORSE
