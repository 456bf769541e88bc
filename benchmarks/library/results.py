"""Write docs/library-results.md and its plots from the committed cells.

    python benchmarks/library/results.py [--check]

Reads `benchmarks/results/library/<experiment>/<cell>.json`; a section whose cells are not there is
left out. The plots of similarities are drawn by similarity.py, which has the pairs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from text_to_lora.analysis.plots import plot_scaling, plot_tasks

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "library"
PAGE = ROOT / "docs" / "library-results.md"

Cell = Mapping[str, Any]
Cells = Mapping[str, Cell]

INTRODUCTION = (
    "Oracle adapters of training tasks, each trained on its own task's rows, and hypernetworks that "
    "are trained to reconstruct them. All figures are of rows that no adapter saw (`idx % 10 == 9`). "
    "NLL: nats per token of the right answer, lower is better; score: exact match or ROUGE-L of the "
    "greedy answer by the task's metric, higher is better. Brackets: 95% bootstrap intervals over "
    "source groups. This page is written by `benchmarks/library/results.py` from the JSON in "
    "`benchmarks/results/library/`, one file a cell."
)


def page(results: Path = RESULTS) -> str:
    """The page as Markdown."""
    found = {name: read_cells(results / name) for name in SECTIONS}
    parts = ["# Libraries of adapters: results", INTRODUCTION]
    for name, section in SECTIONS.items():
        if found[name]:
            parts += section(found[name])
    if any(found.values()):
        parts += ["## Commands", _commands(found)]
    return "\n\n".join(parts) + "\n"


def draw(results: Path, plots: Path) -> None:
    """Draw what the cells alone are enough for."""
    if cells := read_cells(results / "oracles"):
        plot_tasks(
            {
                f"{name} - base": [
                    task["nll"] - cells["base"]["tasks"][key]["nll"]
                    for key, task in cell["tasks"].items()
                ]
                for name, cell in cells.items()
                if name != "base"
            },
            plots / "library-oracles.png",
            label="answer NLL minus that of the base, nats per token",
        )
    if cells := read_cells(results / "scaling"):
        plot_scaling(scaling_panels(cells), plots / "library-scaling.png")


def read_cells(folder: Path) -> dict[str, Cell]:
    """The cells of an experiment by name."""
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"))
    }


def _training(cells: Cells) -> list[str]:
    rows = []
    for name, title in (("library", "library"), ("multitask", "multi-task adapter")):
        if name in cells:
            cell = cells[name]
            rows.append(
                [
                    title,
                    f"{cell['adapters']:,}",
                    f"{cell['rows']:,}",
                    f"{cell['tokens'] / 1e6:.2f} M",
                    f"{cell['seconds_training'] / 60:.0f}",
                    f"{cell['mean_base_loss']:.3f}",
                    f"{cell['mean_loss']:.3f}",
                    f"{cell['better_than_base']} of {cell['adapters']}"
                    if name == "library"
                    else "",
                ]
            )
    library = cells["library"]
    return [
        "## What training took",
        f"`t2l train adapters embedded-library`, {library['groups']} groups, {library['processes']} "
        "at a time with one thread each; `--multi-task` on the same rows with one thread. Minutes are "
        "summed over groups, while other work ran on the machine. NLL: of the rows that choose each "
        "task's best state, so that they flatter the adapters a little.",
        table(
            ["", "adapters", "rows seen", "tokens", "minutes", "NLL, base", "NLL", "better"], rows
        ),
    ]


def _oracles(cells: Cells) -> list[str]:
    rows = []
    for name in ("base", "mean", "multitask", "oracle"):
        if name not in cells:
            continue
        cell = cells[name]
        summary, minus = cell["summary"], cell["minus"].get("base")
        better = f"{minus['nll']['tasks_better']} of {minus['nll']['tasks']}" if minus else ""
        rows.append(
            [
                name,
                interval(summary["nll"]),
                interval(summary["score"]),
                interval(minus["nll"]) if minus else "",
                interval(minus["score"]) if minus else "",
                better,
            ]
        )
    tasks = len(cells["base"]["tasks"])
    return [
        "## How good the oracles are",
        f"All {tasks} tasks of the library, up to {cells['base']['rows_per_task']} rows a task. mean: "
        "one adapter, the element-wise mean of all; multitask: one adapter trained on all tasks with "
        "the budget of the library.",
        table(
            [
                "adapter",
                "NLL",
                "score",
                "NLL - base",
                "score - base",
                "tasks with lower NLL than base",
            ],
            rows,
        ),
        "![Difference in NLL from the base, task by task](plots/library-oracles.png)",
    ]


def _table1(cells: Cells) -> list[str]:
    order = ["base", "mean", *(name for name in cells if "-" in name), "oracle"]
    tasks = cells["oracle"]["scored"]
    parts = [
        "## Nine named tasks: oracle against reconstruction",
        "Table 1's form. Hypernetworks that are trained on the adapters of these nine tasks alone, "
        "from one-hot task codes or from descriptions; mean: the mean of the nine. Up to "
        f"{cells['oracle']['rows_per_task']} rows a task; brackets of a task are over its rows, of "
        "the mean over the tasks.",
    ]
    for measure, title in (("score", "Score"), ("nll", "NLL")):
        rows = [
            [task, *(interval(cells[name]["intervals"][task][measure], 2) for name in order)]
            for task in tasks
        ]
        rows.append(["**mean of tasks**", *(interval(cells[n]["summary"][measure]) for n in order)])
        parts += [f"### {title}", table(["task", *order], rows)]
    parts += ["### What is recovered", table(RECOVERY, [_recovery(n, cells[n]) for n in order])]
    return parts


RECOVERY = [
    "adapters from",
    "relative score",
    "NLL gap closed",
    "L1 of factors",
    "relative error of ΔW",
    "library / network, bytes",
    "with moments",
    "training, s",
]


def _recovery(name: str, cell: Cell) -> list[str]:
    recovery = cell.get("recovery", {})
    errors = cell.get("errors", {}).get("all")
    sizes = cell.get("bytes")
    return [
        name,
        interval(recovery.get("relative_score")),
        interval(recovery.get("gap_closed")),
        f"{errors['factor_l1']:.2e}" if errors else "",
        f"{errors['delta_error']:.3f}" if errors else "",
        f"{sizes['ratio']:.2f}" if sizes else "",
        f"{sizes['ratio_with_moments']:.2f}" if sizes else "",
        f"{cell['train_seconds']:.0f}" if "train_seconds" in cell else "",
    ]


def _scaling(cells: Cells) -> list[str]:
    order = sorted((name for name in cells if "-" in name), key=_scaling_key)
    settings = next((c["training"] for c in cells.values() if "training" in c), None)
    if settings is None:  # the references alone so far
        return []
    rows = []
    for name in ["base", *order, "oracle"]:
        cell = cells[name]
        size = str(cell["adapters"]) if "adapters" in cell else ""
        rows.append([size, interval(cell["summary"]["score"]), *_recovery(name, cell)])
    return [
        "## More and more adapters in one network",
        f"Figure 3's form. The tasks of the smallest set, {cells['oracle']['scored']}, are in every "
        f"set, and all scores are theirs; errors are over the whole set. Every network is trained "
        f"for {settings['steps']:,} steps of {settings['batch']} adapters (latent "
        f"{settings['latent']}, heads' input {settings['head_in']}, z-scored factors, one-hot task "
        "codes; `text`: from descriptions), so that an adapter of a larger set is seen less often. "
        "Bytes: the network alone, and with the mean and deviation of every number that it is stored "
        "with.",
        table(["adapters", "score", *RECOVERY], rows),
        "![Recovery, error and compression by size of library](plots/library-scaling.png)",
    ]


def _scaling_key(name: str) -> tuple[int, int, str]:
    head, _, rest = name.partition("-")
    size, _, kind = rest.partition("-")
    return ("mean", "L", "M", "S").index(head), int(size), kind


def scaling_panels(cells: Cells) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Lines of the plot: per label of an axis, per line its points (adapters, value)."""
    lines: dict[str, list[Cell]] = {}
    for name in sorted((name for name in cells if "-" in name), key=_scaling_key):
        head, _, rest = name.partition("-")
        kind = rest.partition("-")[2]
        lines.setdefault(f"{head} from {kind}" if kind else head, []).append(cells[name])
    sizes = sorted({cell["adapters"] for several in lines.values() for cell in several})

    def points(value: Callable[[Cell], float | None]) -> dict[str, list[tuple[float, float]]]:
        found = {
            name: [(cell["adapters"], v) for cell in several if (v := value(cell)) is not None]
            for name, several in lines.items()
        }
        return {name: line for name, line in found.items() if line}

    base = cells["base"]["recovery"]["relative_score"]["mean"]
    flat = {"base": [(sizes[0], base), (sizes[-1], base)]} if base is not None else {}
    return {
        "score relative to the oracles": points(
            lambda cell: cell["recovery"]["relative_score"]["mean"]
        )
        | flat,
        "NLL gap closed": points(lambda cell: cell["recovery"]["gap_closed"]["mean"]),
        "L1 error of the factors": points(lambda cell: cell["errors"]["all"]["factor_l1"]),
        "library / network, bytes": points(lambda cell: cell.get("bytes", {}).get("ratio")),
    }


def _similarity(cells: Cells) -> list[str]:
    rows = []
    for name in ("factors", "centred", "delta"):
        for pairs, title in (("all_pairs", "all"), ("across_groups", "of unlike source groups")):
            found = cells[name][pairs]
            rows.append(
                [
                    SIMILARITIES[name],
                    f"{found['pearson']['pairs']:,} {title}",
                    interval({"mean": found["pearson"]["value"]} | found["pearson"]),
                    interval({"mean": found["spearman"]["value"]} | found["spearman"]),
                ]
            )
    cell = cells["delta"]
    return [
        "## Are adapters alike where descriptions are?",
        f"Appendix D's form: {cell['tasks']} tasks of {cell['groups']} source groups; cosine of two "
        f"adapters against cosine of the mean embedding ({cell['encoder']}) of up to "
        f"{cell['descriptions']} descriptions of each task. Intervals by resampling source groups, "
        "since pairs share tasks. Tasks of one source group share their data, so that pairs of "
        "unlike groups are given too.",
        table(["cosine of", "pairs", "Pearson", "Spearman"], rows),
        *(
            f"![{SIMILARITIES[name]} against descriptions](plots/library-similarity-{name}.png)"
            for name in ("factors", "centred", "delta")
        ),
    ]


SIMILARITIES = {
    "factors": "factors A, B",
    "centred": "factors minus their mean over the library",
    "delta": "ΔW",
}


def _sft(cells: Cells) -> list[str]:
    if "differences" not in cells:  # the last cell; the tables need all
        return []
    import sft_comparison

    minutes = cells["differences"]["comparison"]["minutes"]
    several = any(
        len(sft_comparison.trial_paths(RESULTS / "sft", method)) > 1
        for method in sft_comparison.METHODS
    )
    rates = (
        "learning rates are chosen on the groups set aside"
        if several
        else "one learning rate each, not searched"
    )
    return [
        "## Reconstruction against supervised training on unseen tasks",
        f"Table 6's form, and reconstruction first, SFT after: {minutes:g} minutes of training each "
        f"on one thread, the same head, sizes, tasks and descriptions; {rates}. The held-out tasks "
        "are scored once.",
        sft_comparison.markdown(RESULTS / "sft"),
    ]


def _commands(found: Mapping[str, Cells]) -> str:
    """Each experiment's command and the time of its cells."""
    rows = []
    for name, cells in found.items():
        if cells and name != "training":  # whose section has its own
            commands = {re.sub(r" --cells \S+", "", cell["command"]) for cell in cells.values()}
            machine = next(iter(cells.values()))["machine"]
            rows.append(
                [
                    name,
                    f"`{max(commands, key=len)}`",  # the one with all options
                    str(len(cells)),
                    str(ceil(sum(cell["seconds"] for cell in cells.values()) / 60)),
                    f"{machine['threads']} of {machine['cores']} cores of {machine['cpu']}",
                ]
            )
    return table(["experiment", "command", "cells", "minutes, all cells", "each cell on"], rows)


SECTIONS: dict[str, Callable[[Cells], list[str]]] = {
    "training": _training,
    "oracles": _oracles,
    "table1": _table1,
    "scaling": _scaling,
    "similarity": _similarity,
    "sft": _sft,
}


def interval(found: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """A mean and its interval in words."""
    if found is None or found["mean"] is None:
        return ""
    mean, low, high = f"{found['mean']:.{digits}f}", found["low"], found["high"]
    return mean if low is None else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the page and the plots, or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where the page differs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the experiments")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    text = page(options.results)
    if options.check:
        if not options.page.exists() or options.page.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{options.page} differs; run python benchmarks/library/results.py")
        return
    draw(options.results, options.page.parent / "plots")
    options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
