"""Plot of a map: descriptions beside adapters, a row for each way of laying them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
MOST_LABELS = 20  # that a reader tells apart; points of the rarest others are grey
NAMES = {"pca": "PCA", "tsne": "t-SNE"}
MARKERS = "oXs^"
PALETTE = [
    "#1f77b4",
    "#d62728",
    "#2ca02c",
    "#9467bd",
    "#ff7f0e",
    "#17becf",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#000000",
]


def plot_map(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `make_map`: one dot a description, colour and shape by label."""
    from matplotlib.figure import Figure

    labels = [point["label"] for point in result["points"]]
    shown = [name for name, _ in Counter(labels).most_common(MOST_LABELS)]
    spaces = list(result["coordinates"])
    methods = list(result["coordinates"][spaces[0]])
    figure: Figure = Figure(figsize=(12.5, 4.8 * len(methods)), layout="constrained")
    every = figure.subplots(len(methods), len(spaces), squeeze=False)
    size = 34 if len(labels) <= 100 else 14
    for line, method in zip(every, methods, strict=True):
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
                title = "others" if name is None else _short(name)
                axes.scatter(x, y, s=size, color=color, marker=marker, label=title, alpha=0.8)
            axes.set_title(f"{space}, {NAMES[method]}", fontsize="medium")
            axes.set_xticks([])
            axes.set_yticks([])
    handles, names = every[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize="small", frameon=False)
    figure.suptitle(_caption(result), fontsize="small")
    write_file(
        path,
        lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}),
    )


def _look(shown: list[str], name: str | None) -> tuple[str, str]:
    if name is None:
        return "0.75", "."
    place = shown.index(name)
    return PALETTE[place % len(PALETTE)], MARKERS[place // len(PALETTE)]


def _short(name: str) -> str:
    name = name.removeprefix("benchmarks.")
    return name if len(name) <= 26 else f"{name[:25]}…"


def _caption(result: Mapping[str, Any]) -> str:
    parts = []
    for space, found in result["agreement"].items():
        near = found["neighbour"]
        ends = "" if near["low"] is None else f" [{near['low']:.2f}, {near['high']:.2f}]"
        parts.append(
            f"{space}: nearest has the same {result['by']} in {near['mean']:.0%}{ends}, "
            f"with labels shuffled {near['shuffled']['mean']:.0%}"
        )
    return "\n".join(parts)
