"""Write docs/results.md, docs/results-heldout.md and the ablations' plots from the committed JSON.

    python benchmarks/judge/results.py [--check]

Reads `benchmarks/results/judge/`; a section whose files are not there is left out. Plots that need
more than the JSON are drawn by the scripts that measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_to_lora.analysis.ablations import (
    Change,
    difference,
    judge_change,
    mean_of,
    noise_floor,
    plot_changes,
    plot_series,
)
from text_to_lora.evaluation.report import pairs
from text_to_lora.evaluation.samples import in_order
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
from text_to_lora.evaluation.tables import number, render_report, show, show_paired, table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "judge"
DOCS = ROOT / "docs"
PAGE, REPORT = "results.md", "results-heldout.md"

Cell = Mapping[str, Any]

DEFAULT = "default-0"
ALL_TASKS = 613  # of the split "train", without the groups that are set aside
SEEDS = ("default-0", "default-1", "default-2")
SERIES: tuple[tuple[str, Mapping[float, str], str], ...] = (
    ("tasks-", {ALL_TASKS: DEFAULT}, "number of training tasks (the largest: all)"),
    ("descriptions-", {}, "descriptions of each of 241 tasks"),
)
"""Beginning of the cells' names, a cell of another name by its number, and what the number is."""
TITLES = {
    "default-0": "default, seed 0",
    "default-1": "default, seed 1",
    "default-2": "default, seed 2",
    "tasks-64": "64 training tasks",
    "tasks-128": "128 training tasks",
    "tasks-256": "256 training tasks",
    "descriptions-1": "1 description a task (241 tasks)",
    "descriptions-16": "16 descriptions a task (241 tasks)",
    "descriptions-128": "128 descriptions a task (241 tasks)",
    "encoder-base": "encoder: the base's own hidden state",
    "size-M": "M instead of L",
    "size-S": "S instead of L",
    "in-prompt": "definition in the prompt in training",
    "no-families": "without families whose input does not tell the task",
    "distillation": "with distillation from the prompted base",
    "swapped": "with swapped rows",
    "hyperdecoder": "Hyperdecoder: reads the input",
}
REPEATED = ("swapped", "no-families")
ALIGNED = (
    "base",
    "in_prompt",
    "definition",
    "training descriptions",
    "unseen paraphrases",
    "descriptions of training tasks",
    "other tasks' definitions",
    "junk",
    "one line",
    "paragraph",
    "keywords",
    "label names listed",
    "no label names",
)
"""Rows of the alignment's tables: references, sources, forms."""
INTRODUCTION = (
    "Is an adapter made from a sentence any good, and does it follow the sentence? Every figure here "
    "is of the embedded default or of hypernetworks trained on its base (15.6 M parameters) on a "
    "CPU. **This is a small base: read signs and gaps, not levels.** NLL: nats per token of the right "
    "answer, lower is better. Score: exact match or ROUGE-L of the greedy answer by the task's "
    "metric, higher is better. Brackets: 95% bootstrap intervals over source groups. Nothing on this "
    "page was chosen by scores of the tasks that it reports. It is written by `benchmarks/judge/results.py` "
    "from `benchmarks/results/judge/`."
)


def page(results: Path = RESULTS) -> str:
    """docs/results.md as Markdown."""
    parts = ["# Results", INTRODUCTION]
    for section in (
        suite_section,
        ablation_section,
        alignment_section,
        harm_section,
        obedience_section,
        maps_section,
        failures_section,
        more_section,
    ):
        parts += section(results)
    return "\n\n".join(parts) + "\n"


def read(path: Path) -> Cell | None:
    """A JSON file; None where there is none."""
    if not path.is_file():
        return None
    found: Cell = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_suite(results: Path) -> Cell | None:
    """The report on the unseen tasks, conditions and differences in the order of tables."""
    report = read(results.parent / "heldout" / "report.json")
    if report is None:
        return None
    names = in_order(report["conditions"])
    found = report["differences"]
    first = [f"{a} - {b}" for a, b in pairs(names)]
    return {
        **report,
        "conditions": {name: report["conditions"][name] for name in names},
        "differences": {name: found[name] for name in first if name in found},
    }


def suite_section(results: Path) -> list[str]:
    """The conditions on the unseen tasks, in short."""
    report = read_suite(results)
    if report is None:
        return []
    conditions, differences = report["conditions"], report["differences"]
    gaps = [
        [
            f"base → {goal}",
            show(found["matched"]["nll"]["share"]) or "–",
            show(found["matched"]["score"]["share"]) or "–",
        ]
        for goal, found in report["gap_closed"].items()
        if "matched" in found
    ]
    groups = {task["group"] for task in report["tasks"].values()}
    parts = [
        "## Unseen tasks under every condition",
        f"{len(report['tasks'])} tasks of {len(groups)} source groups, up to "
        f"{report['settings']['rows_per_task']} rows each (`idx % 10 >= 5`). What each condition is, "
        f"all measures and every task: [{REPORT}]({REPORT}).",
        table(
            ["condition", "tasks", "NLL", "score"],
            [[n, c["tasks"], show(c["nll"]), show(c["score"])] for n, c in conditions.items()],
        ),
        "![NLL and score of every condition](../benchmarks/results/heldout/conditions.png)",
        "Paired differences, first minus second; bold: clear of zero.",
        table(
            ["difference", "NLL", "tasks better", "score", "tasks better"],
            [
                [name, *show_paired(d.get("nll")), *show_paired(d.get("score"))]
                for name, d in differences.items()
                if name.startswith("matched")
            ],
        ),
    ]
    if report["descriptions"]:
        found = report["descriptions"]["measures"]["nll"]
        parts.append(
            f"Over {len(report['descriptions']['conditions'])} descriptions a task "
            f"({report['descriptions']['tasks']} tasks have as many): NLL {show(found)}, standard "
            f"deviation between descriptions {number(found['sd'])}, inside a task "
            f"{number(found['within_tasks'])}."
        )
    if gaps:
        parts += [
            "Share of the gap from base that the matched adapter closes:",
            table(["gap", "in NLL", "in score"], gaps),
        ]
    return parts


class Ablations:
    """The trained cells that there are, against the default."""

    def __init__(self, results: Path) -> None:
        folder = results / "cells"
        found = {name: read(folder / f"{name}.json") for name in TITLES}
        self.cells = {name: cell for name, cell in found.items() if cell is not None}
        references = read(folder / "references.json") or {"groups": {}, "nll": {}}
        self.references = references["nll"]
        self.bootstrap = GroupBootstrap(references["groups"])
        seeds = [self.nll(name) for name in SEEDS if name in self.cells]
        self.floor = noise_floor(seeds, self.bootstrap) if len(seeds) > 1 else None

    def nll(self, name: str, condition: str = "matched") -> Mapping[str, float]:
        """Mean NLL of each task."""
        means: Mapping[str, float] = self.cells[name]["nll"][condition]
        return means

    def mean(self, name: str, condition: str = "matched") -> Interval:
        """Mean NLL."""
        return self.bootstrap.mean(self.nll(name, condition))

    def minus(self, name: str, condition: str) -> Interval:
        """Matched minus a control of the same cell, or minus a reference."""
        than = self.cells[name]["nll"].get(condition) or self.references[condition]
        return difference(self.nll(name), than, self.bootstrap)

    def changes(self) -> dict[str, Change]:
        """Every cell but the default against it."""
        default = self.nll(DEFAULT)
        return {
            name: judge_change(self.nll(name), default, self.floor, self.bootstrap)
            for name in self.cells
            if name != DEFAULT
        }

    def is_series(self, prefix: str, extra: Mapping[float, str]) -> bool:
        """Whether there are two cells or more."""
        return len(self.series(prefix, extra)["matched"]) > 1

    def series(self, prefix: str, extra: Mapping[float, str]) -> dict[str, list[Any]]:
        """NLL by the number in a cell's name, for matched and shuffled."""
        numbers = {
            float(name.removeprefix(prefix)): name for name in self.cells if name.startswith(prefix)
        } | {n: name for n, name in extra.items() if name in self.cells}
        return {
            condition: [(n, self.mean(numbers[n], condition)) for n in sorted(numbers)]
            for condition in ("matched", "shuffled")
        }


def _two_seeds(results: Path, ablations: Ablations) -> list[str]:
    """What is said of training against the input, each over two seeds."""
    names = {"the default": SEEDS[:2]} | {TITLES[name]: (name, f"{name}-1") for name in REPEATED}
    cells = {
        n: read(results / "cells" / f"{n}.json") for several in names.values() for n in several
    }

    def figures(several: Sequence[str]) -> dict[str, dict[str, float]]:
        """Of each task, by what they are."""
        means = {
            condition: mean_of([cells[name]["nll"][condition] for name in several])
            for condition in ("matched", "shuffled", "junk")
        }
        return {"NLL, matched": means["matched"]} | {
            f"matched − {than}": {
                task: value - means[than][task] for task, value in means["matched"].items()
            }
            for than in ("shuffled", "junk")
        }

    if not all(cells.values()):
        return []
    default, rows = figures(SEEDS[:2]), []
    for title, several in names.items():
        row = [title]
        for what, own in figures(several).items():
            change = as_dict(difference(own, default[what], ablations.bootstrap))
            row.append(show(as_dict(ablations.bootstrap.mean(own))))
            row.append("" if several == SEEDS[:2] else _signed(change))
        rows.append(row)
    head = [cell for what in default for cell in (what, "minus default")]
    return [
        "### Training against the input, two seeds each",
        "Does it take tasks that the input does not tell for the adapter to follow its description? "
        "Means over two seeds; bold: clear of zero.",
        table(["cells", *head], rows),
    ]


def ablation_section(results: Path) -> list[str]:
    """The trained cells."""
    ablations = Ablations(results)
    if DEFAULT not in ablations.cells:
        return []
    changes = ablations.changes()
    rows = []
    for name, cell in ablations.cells.items():
        change = changes.get(name)
        rows.append(
            [
                TITLES[name],
                f"{cell['parameters'] / 1e6:.1f} M",
                f"{cell['train_seconds'] / 60:.0f}",
                show(as_dict(ablations.mean(name))),
                "" if change is None else show(as_dict(change.difference), sign="+"),
                "" if change is None else "" if name in SEEDS else change.verdict,
                show(as_dict(ablations.minus(name, "shuffled")), sign="+")
                if "shuffled" in cell["nll"]
                else "",
                show(as_dict(ablations.minus(name, "junk")), sign="+")
                if "junk" in cell["nll"]
                else "",
                show(as_dict(ablations.minus(name, "base")), sign="+"),
            ]
        )
    default = ablations.cells[DEFAULT]
    missing = [TITLES[name] for name in TITLES if name not in ablations.cells]
    base, told = (ablations.bootstrap.mean(ablations.references[n]) for n in ("base", "in_prompt"))
    floor = (
        f"The largest difference between two seeds of the default is {ablations.floor:.3f}: the noise "
        "floor. A change counts only beyond it and clear of zero; else it is **none**."
        if ablations.floor is not None
        else "Other seeds of the default have not been run, so the noise floor is not known; a change "
        "counts here where its interval is clear of zero."
    )
    parts = [
        "## Ablations",
        f"Each cell is one hypernetwork trained from nothing on {default['rows_seen']:,} rows "
        f"(`python benchmarks/judge/cells.py --data DIR --base BASE`), "
        f"minutes on one core of {default['machine']['cpu']} while another "
        f"run used the other. No learning rate or length was tuned for any of them. "
        f"{floor} Base: NLL {show(as_dict(base))}; with the description in its prompt "
        f"{show(as_dict(told))}.",
        table(
            [
                "cell", "parameters", "minutes", "NLL, matched", "minus default", "verdict",
                "matched − shuffled", "matched − junk", "matched − base",
            ],
            rows,
        ),
        "![Differences from the default](plots/ablations.png)",
    ]  # fmt: skip
    if missing:
        parts.append(f"Not run yet: {'; '.join(missing)}.")
    if "in-prompt" in ablations.cells:
        told_cell = ablations.cells["in-prompt"]["nll"]
        told_mean = ablations.bootstrap.mean(told_cell["matched, in prompt"])
        pair = {
            control: difference(
                told_cell["matched, in prompt"], told_cell[f"{control}, in prompt"],
                ablations.bootstrap,
            )
            for control in ("shuffled", "junk")
        }  # fmt: skip
        parts.append(
            "With the definition in the prompt in training **and** in use, as the published "
            f"hypernetworks are judged: matched {show(as_dict(told_mean))}, "
            f"matched − shuffled {show(as_dict(pair['shuffled']), sign='+')}, matched − junk "
            f"{show(as_dict(pair['junk']), sign='+')}: that is what the adapter itself follows its "
            "description by once the prompt tells the task."
        )
    parts += [
        f"![NLL by {label}](plots/ablations-{prefix[:-1]}.png)"
        for prefix, extra, label in SERIES
        if ablations.is_series(prefix, extra)
    ]
    return parts + _two_seeds(results, ablations)


def alignment_section(results: Path) -> list[str]:
    """Sources and forms of a description."""
    cell = read(results / "alignment.json")
    if cell is None:
        return []
    parts = [
        "## Alignment: where a description is from, and its form",
        "Table 5's form, of the embedded default. Other tasks' definitions are of another source "
        "group with other labels; label forms are of classification tasks alone. A paragraph is the "
        "definition and four sentences that say nothing of the task. "
        f"(`{cell['command']}`)",
    ]
    for title, rows in cell["tasks"].items():
        parts += [
            f"### {title.capitalize()} tasks",
            table(
                ["description", "words", "tasks", "NLL", "minus the definition", "minus base"],
                [
                    [
                        name,
                        "" if row["words"] is None else f"{row['words']:.0f}",
                        row["minus_base"]["tasks"],
                        show(row["nll"]),
                        _bold(row["minus_definition"]) if name != "definition" else "",
                        _bold(row["minus_base"]) if name != "base" else "",
                    ]
                    for name, row in sorted(rows.items(), key=lambda item: ALIGNED.index(item[0]))
                ],
            ),
        ]
    parts.append("![Differences from the definition](plots/alignment.png)")
    return parts


def harm_section(results: Path) -> list[str]:
    """What adapters do to other tasks."""
    cell = read(results / "no_harm.json")
    if cell is None:
        return []
    harm = cell["harm"]
    ordered = sorted(
        ((name, found) for name, found in harm["adapters"].items()),
        key=lambda item: item[1]["harm"]["mean"],
    )
    rows = [
        [name, show(found["harm"], sign="+"), f"{found['tasks_harmed']}/{found['tasks']}",
         f"{found['worst_task']['harm']:+.2f}", f"{found['kl']:.3f}"]
        for name, found in ordered
    ]  # fmt: skip
    overall = harm["overall"]
    return [
        "## No harm?",
        f"Each adapter is left on while {len(harm['tasks'])} other tasks (of training, "
        f"{harm['rows']} rows that it never saw) are asked with their own description in the prompt. "
        f"Harm: answer NLL with the adapter minus without. Mean over adapters "
        f"{show(overall['harm'], sign='+')}; telling the base its task in the prompt is worth "
        f"{show(harm['told']['gain'])} on these rows. Share of tasks harmed "
        f"{show(overall['tasks_harmed'])}; KL on plain text {show(overall['kl'])} nats a token. "
        f"(`{cell['command']}`)",
        table(["adapter of", "harm", "tasks harmed", "worst", "KL"], rows),
        "![Harm of every adapter](plots/no-harm.png)",
    ]


def obedience_section(results: Path) -> list[str]:
    """The twenty rules."""
    found = read(results.parent / "obedience.json")
    if found is None:
        return []
    means = ", ".join(
        f"{name} {share:.1%} [{found['intervals'][name]['low']:.1%}, "
        f"{found['intervals'][name]['high']:.1%}]"
        for name, share in found["mean"].items()
    )
    return [
        "## Obedience",
        f"Share of answers that obey {len(found['rules'])} descriptions of the kind that first users "
        f"try, by rule, on {len(found['sentences'])} inputs each: {means}. Every rule: "
        "[obedience.md](../benchmarks/results/obedience.md) (`t2l eval obedience`).",
    ]


def maps_section(results: Path) -> list[str]:
    """Where descriptions and adapters lie."""
    parts = []
    for name, title in (("training", "Training tasks"), ("benchmarks", "Benchmarks")):
        cell = read(results / f"map-{name}.json")
        if cell is None:
            continue
        rows = []
        for space, found in cell["map"]["agreement"].items():
            for measure in ("neighbour", "silhouette"):
                one = found[measure]
                rows.append(
                    [space, measure, show(one), number(one["shuffled"]["mean"]), f"{one['p']:.3f}"]
                )
        parts += [
            f"### {title}, by {cell['by']}",
            table(["space", "measure", "value", "labels shuffled", "p"], rows),
            f"![PCA and t-SNE, {name}](plots/map-{name}.png)",
        ]
    if not parts:
        return []
    return [
        "## Maps",
        "Embeddings of descriptions beside the adapters made of them (Figure 5's form). Neighbour: "
        "how often the nearest point has the same label (by category: of another source group); "
        "silhouette from -1 to 1.",
        *parts,
    ]


def failures_section(results: Path) -> list[str]:
    """What did not work, as far as the JSON on this page can say it."""
    said = []
    report = read(results.parent / "heldout" / "report.json")
    if report is not None:
        for name, goal in (("in_prompt", "the description in the prompt"), ("oracle", "oracles")):
            found = report["gap_closed"].get(name, {}).get("matched")
            if found and found["nll"]["share"]["mean"] is not None:
                share = found["nll"]["share"]["mean"]
                said.append(
                    f"The adapter closes {share:.0%} of the NLL gap from base to {goal}: the rest is "
                    "open."
                )
        base = report["conditions"]["base"]["nll"]["mean"]
        worse = [
            f"{name} ({c['nll']['mean']:.2f})"
            for name, c in report["conditions"].items()
            if name in ("icl", "mean", "retrieval", "arrow", "multitask", "hyperdecoder")
            and c["nll"]["mean"] > base
        ]
        if worse:
            said.append(f"Worse than the base ({base:.2f}) in NLL: {', '.join(worse)}.")
    ablations = Ablations(results)
    if DEFAULT in ablations.cells:
        none = [TITLES[n] for n, c in ablations.changes().items() if c.verdict == "none"
                and n not in SEEDS]  # fmt: skip
        if none:
            said.append(
                f"No difference from the default could be shown with one seed: {'; '.join(none)}. (Families "
                "and swapped rows have a second seed: above.)"
                if _two_seeds(results, ablations)
                else f"No difference from the default could be shown: {'; '.join(none)}."
            )
    harm = read(results / "no_harm.json")
    if harm is not None and harm["harm"]["overall"]["harm"]["low"] > 0:
        said.append(
            "Adapters do harm other tasks when they are left on "
            f"({show(harm['harm']['overall']['harm'], sign='+')} nats a token)."
        )
    if not said:
        return []
    return [
        "## What did not work",
        "\n".join(f"- {line}" for line in said),
        "More, with what was tried: [log.md](log.md).",
    ]


def more_section(results: Path) -> list[str]:
    """Other pages."""
    pages = {
        "cost.md": "operations, bytes, seconds: generating against prompts and against storing",
        "library-results.md": "libraries of adapters, reconstruction, scaling",
        "log.md": "experiments as they went, failures included",
    }
    return [
        "## More",
        "\n".join(
            f"- [{name}]({name}): {what}" for name, what in pages.items() if (DOCS / name).is_file()
        ),
    ]


def _signed(difference: Mapping[str, Any]) -> str:
    text = show(difference, sign="+")
    return f"**{text}**" if difference["low"] * difference["high"] > 0 else text


def as_dict(interval: Interval) -> dict[str, Any]:
    """An interval as `show` takes it."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _bold(difference: Mapping[str, Any]) -> str:
    text = show(difference, sign="+")
    return f"**{text}**" if difference["clear_of_zero"] else text


def heldout_page(results: Path = RESULTS) -> str | None:
    """docs/results-heldout.md: the whole report of the suite."""
    report = read_suite(results)
    return None if report is None else render_report(report)


def draw(results: Path, plots: Path) -> None:
    """Draw the ablations."""
    ablations = Ablations(results)
    if DEFAULT not in ablations.cells:
        return
    changes = {TITLES[name]: change for name, change in ablations.changes().items()}
    if changes:
        plot_changes(changes, ablations.floor, plots / "ablations.png")
    levels = {
        name: ablations.bootstrap.mean(ablations.references[name]).mean
        for name in ("base", "in_prompt")
    }
    for prefix, extra, label in SERIES:
        if ablations.is_series(prefix, extra):
            path = plots / f"ablations-{prefix[:-1]}.png"
            plot_series(ablations.series(prefix, extra), path, label=label, levels=levels)


def write(docs: Path, results: Path, *, check: bool) -> Sequence[str]:
    """Write the pages; gives the names of those that were not as they are now."""
    pages = {PAGE: page(results), REPORT: heldout_page(results)}
    changed = []
    for name, text in pages.items():
        path = docs / name
        if text is None or (path.is_file() and path.read_text(encoding="utf-8") == text):
            continue
        changed.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    return changed


def main() -> None:
    """Write the pages, or with --check tell whether they are as the JSON says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when a page is not up to date")
    options = parser.parse_args()
    changed = write(DOCS, RESULTS, check=options.check)
    if options.check and changed:
        raise SystemExit(f"not up to date: {', '.join(changed)}; run {Path(__file__).name}")
    if not options.check:
        draw(RESULTS, DOCS / "plots")


if __name__ == "__main__":
    main()
