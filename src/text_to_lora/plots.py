"""The style of all plots: how a figure is made and written, colours with a meaning, names that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BETTER, WORSE, NEITHER = "#2166ac", "#b2182b", "0.55"
"""Colours of a change for the better, for the worse, and of one that is neither."""

DPI = 120
LONGEST_NAME = 40  # characters


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; width, height: in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; equal figures give equal files."""
    metadata = {"Software": None}
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=DPI, metadata=metadata))


def shorten_name(name: str, longest: int = LONGEST_NAME) -> str:
    """A name without its middle where it is longer than so many characters."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def draw_interval(
    axes: Axes,
    place: float,
    interval: Mapping[str, Any] | None,
    *,
    color: str,
    hollow: bool = False,
) -> None:
    """Draw a mean as a dot with a line from the low to the high end, as far as they are there.

    place: on the vertical axis; interval: with the keys mean, low and high
    """
    if interval is None or interval["mean"] is None:
        return
    if interval["low"] is not None:
        axes.plot([interval["low"], interval["high"]], [place, place], color=color)
    fill = "white" if hollow else color
    axes.plot(interval["mean"], place, "o", color=color, markerfacecolor=fill, markersize=5)


def label_lines(axes: Axes, labels: Sequence[str], title: str) -> None:
    """Name the lines of a chart, the first at the top, and what its horizontal axis shows."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(title)
