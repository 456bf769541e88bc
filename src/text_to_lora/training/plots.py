"""Plots of runs: of supervised training, and of the reconstruction of a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from text_to_lora.plots import new_figure, save_figure


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses over the steps; solid for matched descriptions, dashed for shuffled ones.

    history: lines of history.jsonl
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()

    def draw(key: str, label: str, style: str, color: str) -> None:
        points = [(line["step"], line[key]) for line in history if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, label=label)

    draw("loss", "training", "-", "0.75")
    for place, name in enumerate(("seen_tasks", "unseen_tasks", "unseen_families")):
        title = name.replace("_", " ")
        draw(f"eval_{name}_loss", title, "o-", f"C{place}")
        draw(f"eval_{name}_shuffled", f"{title}, shuffled", "s--", f"C{place}")
    axes.set_xlabel("step")
    axes.set_ylabel("answer NLL, nats per token (training: the whole objective)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save_figure(figure, path)


def plot_reconstruction(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the training loss and both errors of the library over the steps, logarithmic.

    history: lines of history.jsonl
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for key, label, style in (
        ("loss", "training loss, in its own unit", "-"),
        ("eval_delta_error", "relative error of ΔW", "o-"),
        ("eval_factor_l1", "mean |error| of A and B", "s-"),
    ):
        points = [(line["step"], line[key]) for line in history if line.get(key, 0) > 0]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3, which="both")
    if axes.lines:
        axes.legend()
    save_figure(figure, path)


def plot_library(losses: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw each task's loss with its adapter over its loss without, with the line where they meet.

    losses: of the base and of the adapter, in nats a token, one pair a task
    """
    figure = new_figure(6, 6)
    axes = figure.subplots()
    before, after = zip(*losses, strict=True)
    axes.scatter(before, after, s=12, alpha=0.6)
    limit = 1.05 * max(max(pair) for pair in losses)
    axes.plot([0, limit], [0, limit], "-", color="0.75", label="no change")
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.set_xlabel("base, answer NLL on the selection rows, nats per token")
    axes.set_ylabel("with the task's adapter")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
