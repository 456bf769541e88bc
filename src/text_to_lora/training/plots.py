"""Plot of a run: training loss, and validation under matched and shuffled descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from text_to_lora.files import write_file


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses over the steps; solid for matched descriptions, dashed for shuffled ones.

    history: lines of history.jsonl
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
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
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=110))
