"""Figures and the plot of `benchmarks.studies.refine --unseen`, for the page of results.

python -m benchmarks.studies.refine_report
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.lib import RESULTS, ROOT
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
Curve = Sequence[Mark]
Run = tuple[str, int]
"""A task, and the draw of its rows."""


def _chosen(curve: Curve) -> Mark:
    """The mark with the lowest kept-out loss, which may be that of the start."""
    return min(curve, key=lambda mark: mark[1])


def summarise(folder: Path) -> dict[str, Any] | None:
    """Scores of every arm by k, with differences from the arm `sentence`; None without its cells.

    The figures of one k are of the tasks that all of its arms have. An arm's score is the mean over
    all draws that it has; a difference is over the draws that both arms have.
    """
    cells = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    of_arms: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    groups: dict[str, str] = {}
    for cell in cells:
        groups |= cell["groups"]
        of_arms[cell["k"], cell["arm"]].append(cell)
    numbers = sorted({k for k, arm in of_arms if arm == "sentence"})
    if not numbers:
        return None
    bootstrap = GroupBootstrap(groups)
    first = next(cell for cell in cells if cell["arm"] == "sentence")
    return {
        "tasks": len(groups),
        "test_rows": first["test_rows"],
        "machines": sorted({cell["machine"]["cpu"] for cell in cells}),
        "dates": sorted({cell["date"] for cell in cells}),
        "peak_memory_gib": max(cell["peak_memory_gib"] for cell in cells),
        "rows": {
            k: _summarise_arms(
                {arm: of_arms[k, arm] for arm in TITLES if (k, arm) in of_arms}, bootstrap
            )
            for k in numbers
        },
    }


def _summarise_arms(
    cells: Mapping[str, Sequence[Mapping[str, Any]]], bootstrap: GroupBootstrap
) -> dict[str, Any]:
    """The figures of one number of rows, from the cells of each arm."""
    curves: dict[str, dict[Run, Curve]] = {
        arm: {
            (task, cell["draw"]): curve for cell in of_arm for task, curve in cell["tasks"].items()
        }
        for arm, of_arm in cells.items()
    }
    names = set.intersection(*({task for task, _ in of_arm} for of_arm in curves.values()))
    curves = {
        arm: {run: curve for run, curve in of_arm.items() if run[0] in names}
        for arm, of_arm in curves.items()
    }
    alone = {run: curve[0][4] for run, curve in curves["sentence"].items()}
    changes = _by_task(_subtract(_scores(curves["sentence"]), alone))
    arms = {}
    for arm, of_arm in curves.items():
        seconds = [c["seconds_per_task"] for c in cells[arm] if c.get("seconds_per_task")]

        def compare(step: int | None, of_arm: Mapping[Run, Curve] = of_arm) -> dict[str, Any]:
            scores = _scores(of_arm, step)
            difference = _subtract(_scores(curves["sentence"], step), scores)
            return {
                "score": bootstrap.mean(_by_task(scores)).to_dict(),
                "sentence_minus_it": bootstrap.mean(_by_task(difference)).to_dict(),
            }

        tested = [{int(mark[0]) for mark in curve} for curve in of_arm.values()]
        arms[arm] = compare(None) | {
            "draws": len({draw for _, draw in of_arm}),
            "steps": fmean(_chosen(curve)[0] for curve in of_arm.values()),
            "seconds": fmean(seconds) if seconds else None,
            "by_step": {step: compare(step) for step in sorted(set.intersection(*tested))},
        }
    return {
        "tasks": len(names),
        "alone": bootstrap.mean(_by_task(alone)).to_dict(),
        "minus_alone": bootstrap.mean(changes).to_dict(),
        "much_worse": sum(change < -MUCH_WORSE for change in changes.values()),
        "arms": arms,
    }


def _scores(curves: Mapping[Run, Curve], step: int | None = None) -> dict[Run, float]:
    """Test scores after a step, or after the chosen one where none is given."""
    return {
        run: mark[4]
        for run, curve in curves.items()
        for mark in ([_chosen(curve)] if step is None else curve)
        if step is None or mark[0] == step
    }


def _subtract(first: Mapping[Run, float], second: Mapping[Run, float]) -> dict[Run, float]:
    """Differences over the tasks and draws that both have."""
    return {run: first[run] - second[run] for run in sorted(first.keys() & second.keys())}


def _by_task(values: Mapping[Run, float]) -> dict[str, float]:
    """The mean over draws of each task."""
    of_task: dict[str, list[float]] = defaultdict(list)
    for (task, _), value in values.items():
        of_task[task].append(value)
    return {task: fmean(of_draws) for task, of_draws in of_task.items()}


def plot(summary: Mapping[str, Any], path: Path, k: int = 16) -> None:
    """Score by step with k rows, and at the chosen step by the number of rows, with 95% intervals.

    Numbers of rows that fewer than half of the tasks were refined on are left out of the second.
    """
    rows = {n: row for n, row in summary["rows"].items() if 2 * row["tasks"] > summary["tasks"]}
    figure = new_figure(9, 4)
    by_step, by_rows = figure.subplots(1, 2, sharey=True)
    for place, (arm, values) in enumerate(summary["rows"][k]["arms"].items()):
        style: dict[str, Any] = {"color": COLORS[arm], "label": TITLES[arm]}
        marks = list(values["by_step"].items())
        if len(marks) == 1:
            by_step.axhline(values["score"]["mean"], linestyle=":", **style)
        else:
            _draw(by_step, [(step + 0.12 * place, at["score"]) for step, at in marks], style)
    by_step.set_xlabel(f"steps on {k} rows")
    by_step.set_ylabel("answers right word for word")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    for place, (arm, color) in enumerate(COLORS.items()):
        points = [
            (n * 1.06**place, row["arms"][arm]["score"])
            for n, row in rows.items()
            if arm in row["arms"] and arm != "oracle"
        ]
        if arm == "sentence":
            points = [(0, summary["rows"][k]["alone"]), *points]
        if points:
            _draw(by_rows, points, {"color": color})
    by_rows.set_xscale("symlog", linthresh=4)
    by_rows.set_xticks([0, *rows], ["0", *map(str, rows)])
    by_rows.set_xlabel("rows, at the step that kept-out rows choose")
    for axes in (by_step, by_rows):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def _draw(
    axes: Axes, points: Sequence[tuple[float, Mapping[str, float]]], style: dict[str, Any]
) -> None:
    """A line through means, with their intervals."""
    places, scores = zip(*points, strict=True)
    means = [score["mean"] for score in scores]
    ends = [[abs(score[end] - score["mean"]) for score in scores] for end in ("low", "high")]
    axes.errorbar(places, means, ends, marker="o", markersize=4, elinewidth=0.8, capsize=2, **style)


def main() -> None:
    """Draw the plot of the committed cells."""
    if (summary := summarise(RESULTS / "refine")) is None:
        raise SystemExit("no cells; run python -m benchmarks.studies.refine --unseen")
    plot(summary, ROOT / "docs" / "refine.png")


if __name__ == "__main__":
    main()
