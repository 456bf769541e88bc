"""Report: means, paired differences and shares of gaps of an evaluation, from its samples alone."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import CONDITIONS
from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.paired import (
    Key,
    Values,
    compare_values,
    interval_dict,
    minus,
    task_means,
    values_of,
)
from text_to_lora.evaluation.plots import (
    plot_conditions,
    plot_differences,
    plot_slopes,
    plot_tasks,
)
from text_to_lora.evaluation.samples import Evaluation, Sample, in_order, read_evaluation
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap, Interval
from text_to_lora.evaluation.tables import render_report
from text_to_lora.files import (
    check_format,
    content_hash,
    read_json,
    write_file,
    write_json,
    write_text,
)

FORMAT, VERSION = "text-to-lora report", 2

REPORT_FILES = (
    "report.json",
    "report.md",
    "conditions.png",
    "differences.png",
    "tasks.png",
    "slopes.png",
)
CONTROLS = tuple(
    condition.kind
    for condition in sorted(CONDITIONS, key=lambda condition: not condition.primary)
    if condition.control
)
"""What matched is compared with, the primary ones first."""

GOALS = ("in_prompt", "oracle")
"""Ends of the gaps from base of which the other conditions close a share."""

Table = Mapping[str, Mapping[str, Values]]
"""Values of rows by condition and measure."""


def build_report(
    folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Make report.json, report.md and the plots from `folder`'s samples.

    No model is needed. Equal samples give equal files, in whatever order their rows are. Rows whose
    likelihood is not a finite number are left out, counted, and warned of.

    Raises ConfigError when the folder holds no evaluation or no samples.
    """
    folder = Path(folder)
    report = make_report(read_evaluation(folder), resamples=resamples, seed=seed)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", render_report(report))
    write_file(folder / "conditions.png", lambda file: plot_conditions(report, file))
    names, differences = report["conditions"], report["differences"]
    if any(not name.startswith("paraphrase") for name in differences):
        write_file(folder / "differences.png", lambda file: plot_differences(report, file))
    if any(name.startswith("matched") for name in differences):
        write_file(folder / "tasks.png", lambda file: plot_tasks(report, file))
    if "matched" in names and ("base" in names or "shuffled" in names):
        write_file(folder / "slopes.png", lambda file: plot_slopes(report, file))
    return report


def make_report(
    evaluation: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Give what report.json holds."""
    report = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dict(evaluation.settings),
        **_report(evaluation.samples, resamples, seed),
    }
    for name, condition in report["conditions"].items():
        condition["about"] = dict(evaluation.about[name])
        condition["seconds"] = evaluation.seconds[name]
        condition["shots_left_out"] = evaluation.shots_left_out[name]
    return report


def read_report(path: Path | str) -> dict[str, Any]:
    """Read a report.json; of a folder, the one in it.

    Raises ConfigError when there is none, or it is not a report of this version.
    """
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    report = read_json(file)
    check_format(
        report,
        file,
        name=FORMAT,
        version=VERSION,
        error=ConfigError,
        when_earlier="evaluate again",  # the first version does not say which rows it is of
    )
    return report


def table_of(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, dict[Key, float]]]:
    """Values of rows by condition and measure."""
    return {
        name: {measure: values_of(several, measure) for measure in MEASURES}
        for name, several in samples.items()
    }


def describe_rows(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, Any]]:
    """What each task's rows are, by task: group, metric, number, tokens, hash of their content.

    tokens: of all references; another tokenizer gives another number
    """
    rows: dict[str, dict[int, Sample]] = {}
    for several in samples.values():
        for sample in several:
            rows.setdefault(sample.task, {})[sample.idx] = sample
    described = {}
    for task in sorted(rows):
        ordered = [rows[task][idx] for idx in sorted(rows[task])]
        described[task] = {
            "group": ordered[0].group,
            "metric": ordered[0].metric,
            "rows": len(ordered),
            "tokens": sum(sample.tokens for sample in ordered),
            "content": content_hash([[s.idx, s.input, list(s.outputs)] for s in ordered]),
        }
    return described


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Conditions of which differences are reported, the primary ones first."""
    found = [("matched", control) for control in CONTROLS]
    found.append(("matched_in_prompt", "multitask_in_prompt"))
    found += [(name, "base") for name in in_order(names) if name not in ("base", "matched")]
    for name in in_order(names):
        if name.startswith("paraphrase."):
            found += [(name, "matched"), (name, "shuffled")]
    return [(first, second) for first, second in found if first in names and second in names]


def _report(samples: Mapping[str, Sequence[Sample]], resamples: int, seed: int) -> dict[str, Any]:
    tasks = describe_rows(samples)
    groups = {name: task["group"] for name, task in tasks.items()}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    table = table_of(samples)
    means = {
        name: {measure: task_means(values) for measure, values in measures.items()}
        for name, measures in table.items()
    }
    _warn_of_not_finite(table)
    return {
        "resamples": resamples,
        "bootstrap_seed": seed,
        "measures": _coverage(table),
        "conditions": {
            name: {
                "tasks": len({sample.task for sample in several}),
                "groups": len({sample.group for sample in several}),
                "rows": len({(sample.task, sample.idx) for sample in several}),
                "rows_not_finite": _not_finite(table[name]["nll"]),
                "prompts": len(several),
                "prompts_cut": sum(sample.cut for sample in several),
                **{
                    measure: _mean(values, bootstrap) if means[name][measure] else None
                    for measure, values in table[name].items()
                },
            }
            for name, several in samples.items()
        },
        "common_tasks": _common_tasks(samples, means, bootstrap),
        "differences": _differences(table, bootstrap),
        "descriptions": _descriptions(table, bootstrap),
        "gap_closed": _gaps(table, bootstrap),
        "tasks": {
            task: {
                **facts,
                "conditions": {
                    name: {measure: values.get(task) for measure, values in by_measure.items()}
                    for name, by_measure in means.items()
                },
            }
            for task, facts in tasks.items()
        },
    }


def _warn_of_not_finite(table: Table) -> None:
    for name, measures in table.items():
        if count := _not_finite(measures["nll"]):
            warnings.warn(
                f"condition {name!r} has {count} rows whose likelihood is not a finite number; "
                "they are left out of its figures",
                T2LWarning,
                stacklevel=5,  # of who called build_report
            )


def _not_finite(values: Values) -> int:
    return sum(not math.isfinite(value) for value in values.values())


def _coverage(table: Table) -> dict[str, dict[str, Any]]:
    """How many tasks and rows each measure covers under any condition."""
    coverage = {}
    for name, measure in MEASURES.items():
        keys = {key for measures in table.values() for key in measures[name]}
        coverage[name] = {
            "title": measure.title,
            "covers": measure.covers,
            "lower_is_better": measure.lower_is_better,
            "tasks": len({task for task, _ in keys}),
            "rows": len(keys),
        }
    return coverage


def _mean(values: Values, bootstrap: GroupBootstrap) -> dict[str, Any]:
    means = task_means(values)
    return {
        **interval_dict(bootstrap.mean(means)),
        "tasks": len(means),
        "rows": len(values) - _not_finite(values),
    }


def _common_tasks(
    samples: Mapping[str, Sequence[Sample]],
    means: Mapping[str, Mapping[str, Mapping[str, float]]],
    bootstrap: GroupBootstrap,
) -> dict[str, Any] | None:
    """Means over the tasks that all conditions have; None where all have the same ones."""
    every = [{sample.task for sample in several} for several in samples.values()]
    common = set.intersection(*every)
    if not common or all(tasks == common for tasks in every):
        return None

    def mean(name: str, measure: str) -> dict[str, float | None] | None:
        values = {t: value for t, value in means[name][measure].items() if t in common}
        return interval_dict(bootstrap.mean(values)) if values else None

    return {
        "tasks": len(common),
        "conditions": {name: {m: mean(name, m) for m in HEADLINE} for name in means},
    }


def _differences(table: Table, bootstrap: GroupBootstrap) -> dict[str, Any]:
    return {
        f"{first} - {second}": found
        for first, second in pairs(list(table))
        if (found := _difference(table[first], table[second], bootstrap))
    }


def _difference(
    first: Mapping[str, Values], second: Mapping[str, Values], bootstrap: GroupBootstrap
) -> dict[str, Any]:
    """The difference in each measure in which the two have a row in common."""
    return {
        m: compare_values(first[m], second[m], m, bootstrap).to_dict()
        for m in MEASURES
        if minus(first[m], second[m])
    }


def _descriptions(table: Table, bootstrap: GroupBootstrap) -> dict[str, Any] | None:
    """Mean and spread of matched over several descriptions of the tasks that have all of them.

    sd: standard deviation between the descriptions' overall means; within_tasks: mean over tasks
    of the standard deviation between the descriptions' means of that task

    None where there is one description.
    """
    names = [name for name in table if name == "matched" or name.startswith("paraphrase.")]
    if "matched" not in names or len(names) < 2:
        return None
    mean: dict[str, dict[Key, float]] = {}
    found: dict[str, Any] = {}
    for measure in MEASURES:
        several = [table[name][measure] for name in names]
        keys = [
            key for key in several[0] if all(math.isfinite(of.get(key, math.nan)) for of in several)
        ]
        mean[measure] = {k: math.fsum(of[k] for of in several) / len(several) for k in keys}
        if not keys:
            continue
        by_task = [task_means({key: of[key] for key in keys}) for of in several]
        means = [bootstrap.mean(of).mean for of in by_task]
        within = {t: statistics.stdev(of[t] for of in by_task) for t in by_task[0]}
        found[measure] = {
            **interval_dict(bootstrap.mean(task_means(mean[measure]))),
            "means": dict(zip(names, means, strict=True)),
            "sd": statistics.stdev(means),
            "range": [min(means), max(means)],
            "within_tasks": bootstrap.mean(within).mean,
        }
    if not found:
        return None
    return {
        "conditions": names,
        "tasks": max(len({task for task, _ in values}) for values in mean.values()),
        "measures": found,
        "differences": {
            f"descriptions - {control}": difference
            for control in CONTROLS
            if control in table and (difference := _difference(mean, table[control], bootstrap))
        },
    }


def _gaps(table: Table, bootstrap: GroupBootstrap) -> dict[str, Any]:
    """Shares of the gaps from base that the other conditions close, by end, condition, measure."""
    if "base" not in table:
        return {}
    gaps = {
        goal: {
            name: {
                measure: gap
                for measure in HEADLINE
                if (gap := _gap(table, goal, name, measure, bootstrap))
            }
            for name in table
            if name not in ("base", goal)
        }
        for goal in GOALS
        if goal in table
    }
    return {
        goal: {n: m for n, m in of.items() if m} for goal, of in gaps.items() if any(of.values())
    }


def _gap(
    table: Table, goal: str, name: str, measure: str, bootstrap: GroupBootstrap
) -> dict[str, Any] | None:
    """Share of the way from base to `goal` that `name` goes: a ratio of means over their tasks.

    No share where the goal is not better than base, no interval where it is not clearly so; None
    where the three have no row in common.
    """
    base, end, here = (table[of][measure] for of in ("base", goal, name))
    gap, closed = minus(end, base), minus(here, base)
    gap, closed = (  # rows of all three
        {key: value for key, value in gap.items() if key in closed},
        {key: value for key, value in closed.items() if key in gap},
    )
    if not gap:
        return None
    way, done = task_means(gap), task_means(closed)
    mean = bootstrap.mean(way)
    better = MEASURES[measure].sign * mean.mean > 0
    share = bootstrap.ratio(done, way) if better else Interval(math.nan, None, None)
    return {
        "share": interval_dict(share),
        "gap": interval_dict(mean),
        "gap_clear": mean.clear_of_zero,
        "tasks": len(way),
    }
