"""Plots of runs: of supervised training, of a reconstruction, and of a library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from text_to_lora.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, float]]
"""Lines of history.jsonl."""


def plot_history(history: History, path: Path) -> None:
    """Draw the losses over the steps; solid for matched descriptions, dashed for shuffled ones."""
    with _plot(path) as axes:
        _draw(axes, history, "loss", "training", "-", color="0.75")
        for place, name in enumerate(("seen_tasks", "unseen_tasks", "unseen_families")):
            title, color = name.replace("_", " "), f"C{place}"
            _draw(axes, history, f"eval_{name}_loss", title, "o-", color=color)
            _draw(axes, history, f"eval_{name}_shuffled", f"{title}, shuffled", "s--", color=color)
        axes.set_xlabel("step")
        axes.set_ylabel("answer NLL, nats per token (training: the whole objective)")


def plot_reconstruction(history: History, path: Path) -> None:
    """Draw the training loss and both errors of the library over the steps, logarithmic."""
    with _plot(path) as axes:
        _draw(axes, history, "loss", "training loss, in its own unit", "-", color="C0")
        _draw(axes, history, "eval_delta_error", "relative error of ΔW", "o-", color="C1")
        _draw(axes, history, "eval_factor_l1", "mean |error| of A and B", "s-", color="C2")
        axes.set_yscale("log", nonpositive="mask")
        axes.set_xlabel("step")


def plot_library(losses: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw each task's loss with its adapter over its loss without, with the line where they meet.

    losses: of the base and of the adapter, in nats a token, one pair a task
    """
    limit = 1.05 * max(max(pair) for pair in losses)
    with _plot(path, size=(6, 6)) as axes:
        before, after = zip(*losses, strict=True)
        axes.scatter(before, after, s=12, alpha=0.6)
        axes.plot([0, limit], [0, limit], "-", color="0.75", label="no change")
        axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
        axes.set_xlabel("base, answer NLL on the selection rows, nats per token")
        axes.set_ylabel("with the task's adapter")


@contextmanager
def _plot(path: Path, size: tuple[float, float] = (8, 5)) -> Iterator[Axes]:
    """Axes to draw on, written as a PNG file when the block is left."""
    figure = new_figure(*size)
    axes = figure.subplots()
    yield axes
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save_figure(figure, path)


def _draw(axes: Axes, history: History, key: str, label: str, style: str, *, color: str) -> None:
    """Draw one figure of the history over the steps, where there is one."""
    points = [(line["step"], line[key]) for line in history if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, label=label)
