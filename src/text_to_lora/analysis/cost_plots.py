"""Plot of what adapters cost: where generating beats storing, and adapters beat prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from text_to_lora.files import write_file

DPI = 110
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One pair of logarithmic axes.

    lines: drawn through; points: measured, drawn as marks, none where nothing was measured
    crossings: places where one line passes another, each with what it says
    A name that lines and points share has one colour.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    points: Mapping[str, Points] = field(default_factory=dict)
    crossings: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def plot_costs(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels two by two."""
    from matplotlib.figure import Figure

    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(13, 5.2 * rows), layout="constrained")
    every = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, panel in zip(every, panels, strict=False):
        names = list(dict.fromkeys([*panel.lines, *panel.points]))
        for place, name in enumerate(names):
            color = f"C{place}"
            if name in panel.lines:
                axes.plot(*zip(*panel.lines[name], strict=True), "-", color=color, label=name)
            if panel.points.get(name):
                label = None if name in panel.lines else name
                style = "o" if name in panel.lines else "o--"
                axes.plot(*zip(*panel.points[name], strict=True), style, color=color, label=label)
        for text, (x, y) in panel.crossings.items():
            axes.plot(x, y, "k*", markersize=11)
            axes.annotate(
                text, (x, y), xytext=(6, -14), textcoords="offset points", fontsize="small"
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(panel.title, fontsize="medium")
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in every[len(panels) :]:
        axes.set_axis_off()

    def write(file: Path) -> None:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})

    write_file(path, write)
