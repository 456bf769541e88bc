"""Plots of analyses: the harm that adapters do, and maps of descriptions beside adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

MOST_LABELS = 20  # that a reader tells apart; points of the rarest others are grey
NAMES = {"pca": "PCA", "tsne": "t-SNE"}
MARKERS = "oXs^"


def plot_harm(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `run_harm`: dots with intervals, and a tick at each adapter's worst task."""
    entries = sorted(result["adapters"].items(), key=lambda item: -item[1]["harm"]["mean"])
    figure = new_figure(9, 1.6 + 0.24 * len(entries))
    axes = figure.subplots()
    for place, (_, entry) in enumerate(entries):
        color = WORSE if entry["harm"]["mean"] > 0 else BETTER
        draw_interval(axes, place, entry["harm"], color=color)
        axes.plot(entry["worst_task"]["harm"], place, "|", color=NEITHER)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.axvline(result["told"]["gain"]["mean"], color="0.3", linewidth=0.8, linestyle=":")
    label_lines(
        axes,
        [shorten_name(name) for name, _ in entries],
        "answer NLL of other tasks, with the adapter minus without, nats a token\n"
        "(dot: mean; tick: worst task; dotted: what the description in the prompt is worth)",
    )
    save_figure(figure, path)


def plot_map(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `make_map`: one dot a description, colour and shape by label."""
    labels = [point["label"] for point in result["points"]]
    shown = [name for name, _ in Counter(labels).most_common(MOST_LABELS)]
    spaces = list(result["coordinates"])
    methods = list(result["coordinates"][spaces[0]])
    figure = new_figure(12.5, 4.8 * len(methods))
    panels: Any = figure.subplots(len(methods), len(spaces), squeeze=False)
    size = 34 if len(labels) <= 100 else 14
    for line, method in zip(panels, methods, strict=True):
        for axes, space in zip(line, spaces, strict=True):
            places = result["coordinates"][space][method]
            for name in (None, *shown):  # grey ones below
                chosen = [
                    place
                    for place, label in zip(places, labels, strict=True)
                    if (label not in shown if name is None else label == name)
                ]
                if not chosen:
                    continue
                color, marker = _look(shown, name)
                x, y = zip(*chosen, strict=True)
                title = "others" if name is None else shorten_name(name, 26)
                axes.scatter(x, y, s=size, color=[color], marker=marker, label=title, alpha=0.8)
            axes.set_title(f"{space}, {NAMES[method]}", fontsize="medium")
            axes.set_xticks([])
            axes.set_yticks([])
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize="small", frameon=False)
    figure.suptitle(_caption(result), fontsize="small")
    save_figure(figure, path)


def _look(shown: list[str], name: str | None) -> tuple[Any, str]:
    from matplotlib import colormaps

    if name is None:
        return "0.75", "."
    marker, color = divmod(shown.index(name), 10)
    return colormaps["tab10"](color), MARKERS[marker]


def _caption(result: Mapping[str, Any]) -> str:
    parts = []
    for space, measures in result["agreement"].items():
        near = measures["neighbour"]
        ends = "" if near["low"] is None else f" [{near['low']:.2f}, {near['high']:.2f}]"
        parts.append(
            f"{space}: nearest has the same {result['by']} in {near['mean']:.0%}{ends}, "
            f"with labels shuffled {near['shuffled']['mean']:.0%}"
        )
    return "\n".join(parts)
