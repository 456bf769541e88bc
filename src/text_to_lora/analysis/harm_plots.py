"""Plot of harm: each adapter's mean and interval over other tasks, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
LONGEST = 48  # characters of a name
HARM, HELP, WORST = "#b2182b", "#1b7837", "0.6"


def plot_harm(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `run_harm`: dots with intervals, and a tick at each adapter's worst task."""
    from matplotlib.figure import Figure

    found = sorted(result["adapters"].items(), key=lambda item: float(item[1]["harm"]["mean"]))
    figure: Figure = Figure(figsize=(9, 1.6 + 0.24 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, (_, entry) in enumerate(found):
        harm = entry["harm"]
        color = HARM if harm["mean"] > 0 else HELP
        if harm["low"] is not None:
            axes.plot([harm["low"], harm["high"]], [place, place], color=color)
        axes.plot(harm["mean"], place, "o", color=color, markersize=4)
        axes.plot(entry["worst_task"]["harm"], place, "|", color=WORST)
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name, _ in found]
    axes.set_yticks(range(len(found)), names, fontsize="x-small")
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    gain = result["told"]["gain"]["mean"]
    axes.axvline(gain, color="0.3", linewidth=0.8, linestyle=":")
    axes.set_xlabel(
        "answer NLL of other tasks, with the adapter minus without, nats a token\n"
        "(dot: mean; tick: worst task; dotted: what the description in the prompt is worth)"
    )
    write_file(
        path,
        lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}),
    )
