"""Plots of a report: conditions, their differences, and every task's moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.paired import EVEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"nll": "NLL, nats per answer token (lower is better)", "score": "score (higher is better)"}
BETTER, WORSE, NEITHER = "#2166ac", "#b2182b", "0.55"
COLORS = {
    "base": "black",
    "in_prompt": "#e08214",
    "icl": "#e08214",
    "matched": "#2166ac",
    "paraphrase": "#2166ac",
    "shuffled": "0.55",
    "junk": "0.55",
    "oracle": "#1b7837",
}
"""By kind: what is in the prompt, the description's adapter, its controls, the best; the rest: purple."""

OTHERS = "#762a83"
NAMED = 6  # tasks with a name in each panel of slopes
NAME_LENGTH = 34  # characters; longer names lose their middle


def plot_conditions(report: Mapping[str, Any], path: Path) -> None:
    """Draw each condition's mean and interval, likelihood beside score, with a line at base.

    A hollow dot is of fewer tasks than there are; its label says of how many.
    """
    conditions, every = report["conditions"], len(report["tasks"])
    labels = [
        name if c["tasks"] == every else f"{name} ({c['tasks']} of {every} tasks)"
        for name, c in conditions.items()
    ]
    figure = _figure(height=1.3 + 0.32 * len(conditions))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), HEADLINE, strict=True):
        for place, (name, condition) in enumerate(conditions.items()):
            color = COLORS.get(name.split(".")[0], OTHERS)
            whole = condition["tasks"] == every
            _interval(axes, place, condition[measure], color=color, hollow=not whole)
        if base := conditions.get("base", {}).get(measure):
            axes.axvline(base["mean"], color="black", linestyle="--", linewidth=0.8)
        _rows(axes, labels, AXES[measure])
    _save(figure, path)


def plot_differences(report: Mapping[str, Any], path: Path) -> None:
    """Draw the paired differences, but for those of paraphrases, with a line at zero.

    Blue: better and clear of zero; red: worse and clear of zero; grey: neither.
    """
    every = report["differences"]
    differences = {name: d for name, d in every.items() if not name.startswith("paraphrase")}
    figure = _figure(height=1.3 + 0.32 * len(differences))
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), HEADLINE, strict=True):
        for place, difference in enumerate(differences.values()):
            found = difference.get(measure)
            if found is not None:
                better = MEASURES[measure].sign * found["mean"] > 0
                color = (BETTER if better else WORSE) if found["clear_of_zero"] else NEITHER
                _interval(axes, place, found, color=color)
        axes.axvline(0, color="black", linewidth=0.8)
        _rows(axes, list(differences), f"difference in {AXES[measure]}")
    _save(figure, path)


def plot_slopes(report: Mapping[str, Any], path: Path) -> None:
    """Draw a line for each task from shuffled and from base to matched, as far as they are there.

    Blue where matched is better, red where it is worse; the largest moves have their task's name.
    """
    starts = [name for name in ("shuffled", "base") if name in report["conditions"]]
    figure = _figure(height=0.6 + 4.2 * len(starts))
    grid = figure.subplots(len(starts), len(HEADLINE), squeeze=False)
    for line, start in zip(grid, starts, strict=True):
        for axes, measure in zip(line, HEADLINE, strict=True):
            _slopes(axes, report["tasks"], start, measure)
    _save(figure, path)


def plot_tasks(report: Mapping[str, Any], path: Path) -> None:
    """Draw matched minus each other condition in every task's likelihood, as colours.

    Tasks are in order of the first difference; a task that a condition lacks is grey.
    """
    import numpy
    from matplotlib import colormaps

    prefix = "matched - "
    others = [d.removeprefix(prefix) for d in report["differences"] if d.startswith(prefix)]
    rows = {}
    for name, task in report["tasks"].items():
        nll = {other: task["conditions"][other]["nll"] for other in ("matched", *others)}
        if nll["matched"] is not None:
            rows[name] = [
                numpy.nan if nll[other] is None else nll["matched"] - nll[other] for other in others
            ]
    names = sorted(rows, key=lambda name: (numpy.nan_to_num(rows[name][0]), name))
    values = numpy.array([rows[name] for name in names])
    # The outermost twentieth is clipped: one task must not wash out all others.
    most = float(numpy.nanpercentile(abs(values), 95)) or 1.0
    figure = _figure(height=max(4, 1.6 + 0.19 * len(names)), width=4.5 + 0.55 * len(others))
    axes = figure.subplots()
    colors = colormaps["RdBu_r"].with_extremes(bad="0.8")
    image = axes.imshow(values, cmap=colors, vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(others)), others, rotation=45, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize="x-small")
    figure.colorbar(
        image, label="NLL, matched minus the other\n(blue: matched is better)", extend="both"
    )
    _save(figure, path)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move the places of labels as little as keeps neighbours `gap` apart, in their order."""
    order = sorted(range(len(places)), key=lambda place: places[place])
    clusters: list[list[int]] = []
    centers: list[float] = []
    for place in order:
        clusters.append([place])
        centers.append(places[place])
        # Clusters that overlap become one around the mean of their members.
        while len(clusters) > 1 and centers[-1] - centers[-2] < gap / 2 * (
            len(clusters[-1]) + len(clusters[-2])
        ):
            last = clusters.pop()
            centers.pop()
            clusters[-1] += last
            centers[-1] = sum(places[member] for member in clusters[-1]) / len(clusters[-1])
    moved = list(places)
    for cluster, center in zip(clusters, centers, strict=True):
        for rank, member in enumerate(cluster):
            moved[member] = center + gap * (rank - (len(cluster) - 1) / 2)
    return moved


def _slopes(axes: Axes, tasks: Mapping[str, Any], start: str, measure: str) -> None:
    sign = MEASURES[measure].sign
    moves: dict[str, tuple[float, float]] = {}
    for name, task in tasks.items():
        ends = [task["conditions"][of][measure] for of in (start, "matched")]
        if None not in ends:
            moves[name] = (ends[0], ends[1])
    better = 0
    for before, after in moves.values():
        better += sign * (after - before) > EVEN
        axes.plot(
            [0, 1],
            [before, after],
            "o-",
            markersize=3,
            alpha=0.7,
            color=_color(before, after, sign),
        )
    largest = sorted(moves, key=lambda name: -abs(moves[name][1] - moves[name][0]))[:NAMED]
    largest = [name for name in largest if abs(moves[name][1] - moves[name][0]) > EVEN]
    low, high = axes.get_ylim()
    places = apart([moves[name][1] for name in largest], 0.05 * (high - low))
    for name, place in zip(largest, places, strict=True):
        before, after = moves[name]
        color = _color(before, after, sign)
        axes.plot([1, 1.12], [after, place], linewidth=0.6, color=color)
        axes.text(1.14, place, _short(name), fontsize="x-small", va="center", color=color)
    axes.set_xticks([0, 1], [start, "matched"])
    axes.set_xlim(-0.1, 2.6)  # room for names
    axes.set_title(f"{AXES[measure]}: better in {better} of {len(moves)} tasks", fontsize="small")
    axes.grid(axis="y", alpha=0.3)


def _color(before: float, after: float, sign: int) -> str:
    change = sign * (after - before)
    even = abs(change) <= EVEN
    return NEITHER if even else BETTER if change > 0 else WORSE


def _short(name: str) -> str:
    if len(name) <= NAME_LENGTH:
        return name
    half = (NAME_LENGTH - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _interval(
    axes: Axes,
    place: int,
    interval: Mapping[str, Any] | None,
    *,
    color: str,
    hollow: bool = False,
) -> None:
    if interval is None or interval["mean"] is None:
        return
    if interval["low"] is not None:
        axes.plot([interval["low"], interval["high"]], [place, place], color=color)
    fill = "white" if hollow else color
    axes.plot(interval["mean"], place, "o", color=color, markerfacecolor=fill)


def _rows(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(title)


def _figure(*, height: float, width: float = 11) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
