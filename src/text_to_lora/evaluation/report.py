"""Report: means, paired differences and shares of gaps of an evaluation, from its samples alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import CONDITIONS
from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.plots import plot_conditions, plot_differences, plot_slopes, plot_tasks
from text_to_lora.evaluation.samples import Evaluation, Sample, in_order, read_evaluation
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap, Interval
from text_to_lora.evaluation.tables import render_report
from text_to_lora.evaluation.values import (
    Tables,
    compare_columns,
    finite,
    finite_rows,
    mean_of,
    tables_of,
    task_means,
)
from text_to_lora.files import check_format, content_hash, read_json, write_json, write_text

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
"""The conditions that matched is compared with, the primary ones first."""

GOALS = ("in_prompt", "oracle")
"""Ends of the gaps from base of which the other conditions close a share."""


def build_report(
    folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Make report.json, report.md and the plots from the samples in a folder.

    No model is needed. Equal samples give equal files, in whatever order their rows are. Rows whose
    likelihood is not a finite number are left out, counted, and warned of.

    Raises ConfigError when the folder holds no evaluation or no samples.
    """
    folder = Path(folder)
    report = make_report(read_evaluation(folder), resamples=resamples, seed=seed)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", render_report(report))
    plot_conditions(report, folder / "conditions.png")
    names, differences = report["conditions"], report["differences"]
    if any(not name.startswith("paraphrase") for name in differences):
        plot_differences(report, folder / "differences.png")
    if any(name.startswith("matched - ") for name in differences):
        plot_tasks(report, folder / "tasks.png")
    if "matched" in names and ("base" in names or "shuffled" in names):
        plot_slopes(report, folder / "slopes.png")
    return report


def make_report(
    evaluation: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Give what report.json holds."""
    samples = evaluation.samples
    tasks = describe_rows(samples)
    groups = {name: task["group"] for name, task in tasks.items()}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    tables = tables_of(samples)
    not_finite = numpy.isinf(tables["nll"]).sum()
    for name, count in not_finite.items():
        if count:
            warnings.warn(
                f"condition {name!r} has {count} rows whose likelihood is not a finite number; "
                "they are left out of its figures",
                T2LWarning,
                stacklevel=3,
            )
    conditions = {}
    for name, members in samples.items():
        conditions[name] = {
            "tasks": len({sample.task for sample in members}),
            "groups": len({sample.group for sample in members}),
            "rows": len({(sample.task, sample.idx) for sample in members}),
            "rows_not_finite": int(not_finite[name]),
            "prompts": len(members),
            "prompts_cut": sum(sample.cut for sample in members),
            **evaluation.facts[name],
        }
        for measure, table in tables.items():
            values = finite(table[name])
            mean = mean_of(values, bootstrap)
            counts = {"tasks": values.index.unique("task").size, "rows": len(values)}
            conditions[name][measure] = None if mean is None else mean | counts
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": dict(evaluation.settings),
        "resamples": resamples,
        "bootstrap_seed": seed,
        "measures": _coverage(tables),
        "conditions": conditions,
        "common_tasks": _common_tasks(samples, tables, bootstrap),
        "differences": _differences(tables, bootstrap),
        "descriptions": _descriptions(tables, bootstrap),
        "gap_closed": _gaps(tables, bootstrap),
        "tasks": _tasks(tasks, tables),
    }


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


def describe_rows(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, Any]]:
    """What each task's rows are, by task: group, metric, number, tokens, hash of their content.

    tokens: of all references; another tokenizer gives another number
    """
    rows: dict[str, dict[int, Sample]] = {}
    for members in samples.values():
        for sample in members:
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
    wanted = [("matched", control) for control in CONTROLS]
    wanted.append(("matched_in_prompt", "multitask_in_prompt"))
    wanted += [(name, "base") for name in in_order(names) if name not in ("base", "matched")]
    for name in in_order(names):
        if name.startswith("paraphrase."):
            wanted += [(name, "matched"), (name, "shuffled")]
    return [(first, second) for first, second in wanted if first in names and second in names]


def _tasks(tasks: Mapping[str, Mapping[str, Any]], tables: Tables) -> dict[str, Any]:
    """What each task's rows are, and their mean by condition and measure."""
    means = {measure: task_means(table).astype(object) for measure, table in tables.items()}
    means = {measure: table.where(table.notna(), None) for measure, table in means.items()}
    return {
        task: {
            **facts,
            "conditions": {
                name: {m: values.at[task, name] for m, values in means.items()}
                for name in means["nll"]
            },
        }
        for task, facts in tasks.items()
    }


def _coverage(tables: Tables) -> dict[str, dict[str, Any]]:
    """How many tasks and rows each measure covers under any condition."""
    coverage = {}
    for name, measure in MEASURES.items():
        rows = tables[name].dropna(how="all").index
        coverage[name] = {
            "title": measure.title,
            "covers": measure.covers,
            "lower_is_better": measure.lower_is_better,
            "tasks": rows.unique("task").size,
            "rows": len(rows),
        }
    return coverage


def _common_tasks(
    samples: Mapping[str, Sequence[Sample]], tables: Tables, bootstrap: GroupBootstrap
) -> dict[str, Any] | None:
    """Means over the tasks that all conditions have; None where all have the same ones."""
    tasks = [{sample.task for sample in members} for members in samples.values()]
    common = sorted(set.intersection(*tasks))
    if not common or all(len(of_condition) == len(common) for of_condition in tasks):
        return None
    return {
        "tasks": len(common),
        "conditions": {
            name: {m: mean_of(tables[m][name].loc[common], bootstrap) for m in HEADLINE}
            for name in samples
        },
    }


def _differences(tables: Tables, bootstrap: GroupBootstrap) -> dict[str, Any]:
    """Differences of pairs of conditions in each measure in which the two have a row in common."""
    differences: dict[str, Any] = {}
    for first, second in pairs(list(tables["nll"])):
        for measure, table in tables.items():
            difference = compare_columns(table[first], table[second], measure, bootstrap)
            if difference is not None:
                differences.setdefault(f"{first} - {second}", {})[measure] = difference
    return differences


def _descriptions(tables: Tables, bootstrap: GroupBootstrap) -> dict[str, Any] | None:
    """Mean and spread of matched over several descriptions of the tasks that have all of them.

    sd: standard deviation between the descriptions' overall means; within_tasks: mean over tasks
    of the standard deviation between the descriptions' means of that task

    None where there is one description.
    """
    every = list(tables["nll"])
    names = [name for name in every if name == "matched" or name.startswith("paraphrase.")]
    if "matched" not in names or len(names) < 2:
        return None
    measures: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    num_tasks = 0
    for measure, table in tables.items():
        values = finite_rows(table[names])
        if values.empty:
            continue
        by_task = task_means(values)
        means = {name: float(bootstrap.group_means(by_task[name]).mean()) for name in names}
        measures[measure] = {
            **bootstrap.mean(by_task.mean(axis=1)).to_dict(),
            "means": means,
            "sd": float(numpy.std(list(means.values()), ddof=1)),
            "range": [min(means.values()), max(means.values())],
            "within_tasks": bootstrap.mean(by_task.std(axis=1)).mean,
        }
        num_tasks = max(num_tasks, len(by_task))
        mean = values.mean(axis=1).reindex(table.index)
        for control in CONTROLS:
            if control in every:
                difference = compare_columns(mean, table[control], measure, bootstrap)
                if difference is not None:
                    differences.setdefault(f"descriptions - {control}", {})[measure] = difference
    if not measures:
        return None
    return {
        "conditions": names,
        "tasks": num_tasks,
        "measures": measures,
        "differences": differences,
    }


def _gaps(tables: Tables, bootstrap: GroupBootstrap) -> dict[str, Any]:
    """Shares of the gaps from base that the other conditions close, by goal, condition, measure."""
    every = list(tables["nll"])
    gaps: dict[str, Any] = {}
    for goal in GOALS:
        for name in every:
            if not {"base", goal} <= set(every) or name in ("base", goal):
                continue
            for measure in HEADLINE:
                gap = _gap(tables, goal, name, measure, bootstrap)
                if gap is not None:
                    gaps.setdefault(goal, {}).setdefault(name, {})[measure] = gap
    return gaps


def _gap(
    tables: Tables, goal: str, name: str, measure: str, bootstrap: GroupBootstrap
) -> dict[str, Any] | None:
    """Share of the way from base to `goal` that `name` goes: a ratio of means over their tasks.

    There is no share where the goal is not better than base, and no interval where it is not clearly
    so. None where the three have no row in common.
    """
    rows = finite_rows(tables[measure][["base", goal, name]])
    if rows.empty:
        return None
    way, done = task_means(rows[goal] - rows["base"]), task_means(rows[name] - rows["base"])
    gap = bootstrap.mean(way)
    better = MEASURES[measure].sign * gap.mean > 0
    share = bootstrap.ratio(done, way) if better else Interval(math.nan, None, None)
    return {
        "share": share.to_dict(),
        "gap": gap.to_dict(),
        "gap_clear": gap.clear_of_zero,
        "tasks": len(way),
    }
