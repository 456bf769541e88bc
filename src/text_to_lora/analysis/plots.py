"""Plots of libraries: pairs of adapters, recovery by size of library, oracles task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from text_to_lora.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[numpy.float64]

BINS = 40  # hexagons along the horizontal axis
DPI = 110


def plot_pairs(x: Floats, y: Floats, path: Path, *, labels: tuple[str, str], title: str) -> None:
    """Draw how many pairs lie where, one hexagon for those of like values, counts on a log scale.

    x, y: of the pairs, [pairs]; labels: of the two axes
    """
    figure = _figure(6, 4.5)
    axes = figure.subplots()
    hexagons = axes.hexbin(x, y, gridsize=BINS, bins="log", mincnt=1, cmap="viridis")
    figure.colorbar(hexagons, label="pairs")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize="medium")
    _save(figure, path)


def plot_scaling(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path
) -> None:
    """Draw panels under each other: lines of values by size of library.

    panels: per label of the vertical axis, per line its points (adapters, value); a line whose name
        begins with "mean" or "base" is dashed, one whose name has a "from" has crosses
    """
    figure = _figure(7, 2.4 * len(panels))
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, lines) in zip(every, panels.items(), strict=True):
        for name, points in lines.items():
            plain = "X:" if " from " in name else "o-"
            style = "s--" if name.startswith(("mean", "base")) else plain
            axes.plot(*zip(*sorted(points), strict=True), style, label=name, color=_color(name))
        axes.set_xscale("log", base=2)
        axes.set_ylabel(label, fontsize="small")
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize="x-small")
    sizes = sorted({x for lines in panels.values() for p in lines.values() for x, _ in p})
    every[-1].set_xticks(sizes, [f"{size:g}" for size in sizes])
    every[-1].set_xlabel("adapters in the library")
    _save(figure, path)


def plot_tasks(differences: Mapping[str, Sequence[float]], path: Path, *, label: str) -> None:
    """Draw each condition's values, one a task, in order of size.

    differences: values of the tasks by condition; label: of the vertical axis
    """
    figure = _figure(7, 4)
    axes = figure.subplots()
    for name, values in differences.items():
        shares = (numpy.arange(len(values)) + 0.5) / len(values)
        axes.plot(shares, sorted(values), label=f"{name} ({len(values)} tasks)")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xlabel("share of tasks")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _color(name: str) -> str:
    """One colour for each head, whatever else the name says."""
    known = {"L": "C0", "M": "C1", "S": "C2", "mean": "0.4", "base": "0.7"}
    return known.get(name.split()[0], "C3")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    def write(file: Path) -> Any:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})

    write_file(path, write)
