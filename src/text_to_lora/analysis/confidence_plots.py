"""Plots of confidence: risk by coverage beside plain cosine and accepting all, and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
COLORS = {"confidence": "#1b7837", "cosine": "#2166ac", "always yes": "0.5"}
LABELS = {
    "no_gain": "share of accepted without gain",
    "nll_change": "mean change of answer NLL\nof accepted, nats a token",
}


def plot_confidence(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report of `judge_confidence`: risk by coverage for each population, and calibration."""
    from matplotlib.figure import Figure

    populations = report["risk_coverage"]
    figure: Figure = Figure(figsize=(12.5, 6.4), layout="constrained")
    every = figure.subplots(2, len(populations) + 1)
    for column, (population, measures) in enumerate(populations.items()):
        for line, (measure, found) in enumerate(measures.items()):
            axes = every[line, column]
            for name, curve in found["curves"].items():
                area = found["areas"][name]
                label = f"{name}: {area['mean']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
                axes.plot(curve["coverage"], curve["risk"], color=COLORS[name], label=label)
            axes.set_ylabel(LABELS[measure], fontsize="small")
            axes.set_xlabel("share accepted, surest first", fontsize="small")
            axes.set_title(f"{population} descriptions; area", fontsize="small")
            axes.legend(fontsize="x-small")
            axes.grid(alpha=0.3)
    bins = report["calibration"]["bins"]
    axes = every[0, -1]
    axes.plot([0, 1], [0, 1], ":", color="0.5")
    axes.plot(
        [part["confidence"] for part in bins],
        [part["gain_above_zero"] for part in bins],
        "o-",
        color=COLORS["confidence"],
    )
    axes.set_xlabel("confidence", fontsize="small")
    axes.set_ylabel("share with gain", fontsize="small")
    axes.set_title("calibration, all texts", fontsize="small")
    axes.grid(alpha=0.3)
    axes = every[1, -1]
    names = list(report["auroc"]["confidence"])
    for place, name in enumerate(names):
        for way, shift in (("confidence", -0.12), ("cosine", 0.12)):
            found = report["auroc"][way][name]
            axes.plot([found["low"], found["high"]], [place + shift] * 2, color=COLORS[way])
            axes.plot(found["mean"], place + shift, "o", color=COLORS[way])
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.axvline(0.5, color="0.5", linestyle=":")
    axes.set_xlabel("AUROC", fontsize="small")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    write_file(
        path,
        lambda file: figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None}),
    )
