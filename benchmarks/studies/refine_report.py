"""Figures and the plot of `benchmarks.studies.refine --unseen`, for the page of results.

python -m benchmarks.studies.refine_report
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.lib import RESULTS, ROOT
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.plots import new_figure, save_figure

TITLES = {
    "sentence": "refined from the sentence",
    "usual": "the same training from LoRA's usual start",
    "multitask": "the same training from the multi-task adapter",
    "nearest": "the same training from the nearest adapter of a library",
    "examples": "the rows in the prompt of the base",
    "oracle": "the task's own adapter, of up to 240 rows",
}
COLORS = {
    "sentence": "#2166ac",
    "usual": "#b2182b",
    "multitask": "#e08214",
    "nearest": "#7b3294",
    "examples": "0.55",
    "oracle": "0.2",
}
MUCH_WORSE = 0.03  # of a score: the loss against the sentence alone that is counted

Mark = Sequence[float]
"""Step, kept-out loss and share of right answers, test loss and share of right answers."""


def _chosen(curve: Sequence[Mark]) -> Mark:
    """The mark with the lowest kept-out loss, which may be that of the start."""
    return min(curve, key=lambda mark: mark[1])


def summarise(folder: Path) -> dict[str, Any] | None:
    """Scores of every arm by k, with differences from the arm `sentence`; None without its cells.

    The figures of one k are of the tasks that all of its arms have.
    """
    cells = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    curves: dict[tuple[int, str], dict[str, list[Sequence[Mark]]]] = {}
    groups: dict[str, str] = {}
    for cell in cells:
        groups |= cell["groups"]
        of_arm = curves.setdefault((cell["k"], cell["arm"]), defaultdict(list))
        for task, curve in cell["tasks"].items():
            of_arm[task].append(curve)
    numbers = sorted({k for k, arm in curves if arm == "sentence"})
    if not numbers:
        return None
    bootstrap = GroupBootstrap(groups)
    rows: dict[int, dict[str, Any]] = {}
    for k in numbers:
        of_k = {arm: curves[k, arm] for arm in TITLES if (k, arm) in curves}
        names = set.intersection(*map(set, of_k.values()))
        arms = {arm: {task: of_arm[task] for task in sorted(names)} for arm, of_arm in of_k.items()}
        scores = {
            arm: {task: fmean(_chosen(c)[4] for c in of_task) for task, of_task in of_arm.items()}
            for arm, of_arm in arms.items()
        }
        alone = {t: fmean(c[0][4] for c in of_task) for t, of_task in arms["sentence"].items()}
        rows[k] = {"tasks": len(names)}
        rows[k]["much_worse"] = sum(scores["sentence"][t] < alone[t] - MUCH_WORSE for t in alone)
        rows[k]["alone"] = bootstrap.mean(alone).to_dict()
        rows[k]["minus_alone"] = _difference(scores["sentence"], alone, bootstrap)
        rows[k]["arms"] = {
            arm: {
                "score": bootstrap.mean(scores[arm]).to_dict(),
                "sentence_minus_it": _difference(scores["sentence"], scores[arm], bootstrap),
                "steps": fmean(_chosen(curve)[0] for task in of_arm.values() for curve in task),
                "by_step": _by_step(of_arm, bootstrap),
            }
            for arm, of_arm in arms.items()
        }
    first = next(cell for cell in cells if cell["arm"] == "sentence")
    return {
        "tasks": len(groups),
        "test_rows": first["test_rows"],
        "draws": 1 + max(cell["draw"] for cell in cells),
        "machine": first["machine"],
        "date": first["date"],
        "peak_memory_gib": max(cell["peak_memory_gib"] for cell in cells),
        "rows": rows,
    }


def _difference(
    first: Mapping[str, float], second: Mapping[str, float], bootstrap: GroupBootstrap
) -> dict[str, float | None]:
    return bootstrap.mean({task: first[task] - second[task] for task in first}).to_dict()


def _by_step(
    curves: Mapping[str, Sequence[Sequence[Mark]]], bootstrap: GroupBootstrap
) -> dict[int, float]:
    """The mean score over groups after each step that was tested."""
    steps = [int(mark[0]) for mark in next(iter(curves.values()))[0]]
    return {
        step: bootstrap.mean(
            {task: fmean(c[place][4] for c in of_task) for task, of_task in curves.items()}
        ).mean
        for place, step in enumerate(steps)
    }


def plot(summary: Mapping[str, Any], path: Path, k: int = 16) -> None:
    """Score by step with k rows, and at the chosen step by the number of rows.

    Numbers of rows that fewer than half of the tasks were refined on are left out of the second.
    """
    rows = {n: row for n, row in summary["rows"].items() if 2 * row["tasks"] > summary["tasks"]}
    figure = new_figure(9, 3.6)
    by_step, by_rows = figure.subplots(1, 2, sharey=True)
    for arm, values in summary["rows"][k]["arms"].items():
        style: dict[str, Any] = {"color": COLORS[arm], "label": TITLES[arm]}
        if len(values["by_step"]) == 1:
            by_step.axhline(values["score"]["mean"], linestyle=":", **style)
        else:
            by_step.plot(list(values["by_step"]), list(values["by_step"].values()), "o-", **style)
    by_step.set_xlabel(f"steps on {k} rows")
    by_step.set_ylabel("answers right word for word")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    for arm, color in COLORS.items():
        points = [
            (n, row["arms"][arm]["score"])
            for n, row in rows.items()
            if arm in row["arms"] and arm != "oracle"
        ]
        if arm == "sentence":
            points = [(0, summary["rows"][k]["alone"]), *points]
        if not points:
            continue
        places, scores = zip(*points, strict=True)
        means = [score["mean"] for score in scores]
        ends = [[abs(score[end] - score["mean"]) for score in scores] for end in ("low", "high")]
        by_rows.errorbar(places, means, ends, marker="o", color=color, capsize=2)
    by_rows.set_xscale("symlog", linthresh=4)
    by_rows.set_xticks([0, *rows], ["0", *map(str, rows)])
    by_rows.set_xlabel("rows, at the step that kept-out rows choose")
    for axes in (by_step, by_rows):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def main() -> None:
    """Draw the plot of the committed cells."""
    if (summary := summarise(RESULTS / "refine")) is None:
        raise SystemExit("no cells; run python -m benchmarks.studies.refine --unseen")
    plot(summary, ROOT / "docs" / "refine.png")


if __name__ == "__main__":
    main()
