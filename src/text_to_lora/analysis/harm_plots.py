"""Plot of harm: each adapter's mean and interval over other tasks, the worst first."""

from __future__ import annotations

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
