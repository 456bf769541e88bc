"""Tables and plots of an evaluation, made from its samples alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.plots import plot_conditions, plot_slopes
from text_to_lora.evaluation.samples import FORMAT, VERSION, Sample, read_samples, sample_path
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap, Interval
from text_to_lora.files import check_format, read_json, write_file, write_json

Measure = Literal["nll", "score", "in_labels", "label_score"]
MEASURES: tuple[Measure, ...] = ("nll", "score", "in_labels", "label_score")
PAIRED: tuple[Measure, ...] = ("nll", "score")

ORDER = ("base", "in_prompt", "multitask", "matched", "paraphrase", "shuffled", "junk")
CONTROLS = ("shuffled", "junk", "multitask", "base", "in_prompt")

Key = tuple[str, int]
"""Task and idx of a row."""


@dataclass(frozen=True)
class Comparison:
    """Paired difference of one condition minus another, in one measure.

    tasks_better: tasks where the first is better: a lower nll, a higher score
    left_out: rows without a finite value under both
    """

    measure: Measure
    difference: Interval
    tasks: int
    tasks_better: int
    left_out: int


def compare_conditions(
    samples: Iterable[Sample],
    than: Iterable[Sample],
    *,
    measure: Measure = "nll",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two conditions on the rows that both have, with a 95% bootstrap over groups.

    Several samples of a row, as of three derangements, are averaged first. A task's difference is
    the mean over its rows, a group's that over its tasks, and every group counts once.

    Raises ConfigError when they have no row in common.
    """
    samples, than = list(samples), list(than)
    groups = {sample.task: sample.group for sample in (*samples, *than)}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    return _compare(_values(samples, measure), _values(than, measure), measure, bootstrap)


def build_report(
    folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Make report.json, report.md, conditions.png and slopes.png from `folder`'s samples.

    No model is needed. Equal samples give equal files. Rows whose likelihood is not a finite number
    are left out, counted, and warned of.

    Raises ConfigError when the folder holds no evaluation or no samples.
    """
    folder = Path(folder)
    run = read_json(folder / "run.json")
    check_format(run, folder / "run.json", name=FORMAT, version=VERSION, error=ConfigError)
    names = [name for name in run["conditions"] if sample_path(folder, name).exists()]
    if not names:
        raise ConfigError(f"{str(folder)!r} holds no samples; evaluate first")
    samples: dict[str, list[Sample]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        read, metadata = read_samples(sample_path(folder, name))
        kind = run["conditions"][name]["kind"]
        label = kind if kind == "shuffled" else name
        samples.setdefault(label, []).extend(read)
        seconds[label] = round(seconds.get(label, 0.0) + metadata["seconds"], 1)
    ordered = sorted(samples, key=lambda name: (ORDER.index(name.split(".")[0]), name))
    report = _report({name: samples[name] for name in ordered}, resamples, seed)
    for name in ordered:
        report["conditions"][name]["seconds"] = seconds[name]
    report["settings"] = {k: v for k, v in run["settings"].items() if k != "tasks"}
    write_json(folder / "report.json", report)
    text = render_markdown(report)
    write_file(folder / "report.md", lambda file: _write_text(file, text))
    write_file(folder / "conditions.png", lambda file: plot_conditions(report, file))
    if {"matched", "shuffled"} <= set(ordered):
        write_file(folder / "slopes.png", lambda file: plot_slopes(report, file))
    return report


def _report(samples: Mapping[str, Sequence[Sample]], resamples: int, seed: int) -> dict[str, Any]:
    groups = {s.task: s.group for several in samples.values() for s in several}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    values = {
        name: {measure: _values(several, measure) for measure in MEASURES}
        for name, several in samples.items()
    }
    tables = {
        name: {measure: _task_means(measured[measure]) for measure in MEASURES}
        for name, measured in values.items()
    }
    not_finite = {
        name: sum(not math.isfinite(value) for value in measured["nll"].values())
        for name, measured in values.items()
    }
    for name, count in not_finite.items():
        if count:
            warnings.warn(
                f"condition {name!r} has {count} rows whose likelihood is not a finite number; "
                "they are left out of its figures",
                T2LWarning,
                stacklevel=3,
            )
    conditions = {
        name: {
            "tasks": len({sample.task for sample in samples[name]}),
            "groups": len({sample.group for sample in samples[name]}),
            "rows": len(values[name]["nll"]),
            "rows_not_finite": not_finite[name],
            **{
                measure: _interval(bootstrap.mean(means)) if means else None
                for measure, means in table.items()
            },
        }
        for name, table in tables.items()
    }
    differences = {
        f"{first} - {second}": {
            measure: _comparison(
                _compare(values[first][measure], values[second][measure], measure, bootstrap)
            )
            for measure in PAIRED
            if tables[first][measure] and tables[second][measure]
        }
        for first, second in _pairs(list(samples))
    }
    gap = {}
    if {"base", "in_prompt", "matched"} <= set(samples):
        gap = {m: _gap_closed(values, m, bootstrap) for m in PAIRED if tables["base"][m]}
    return {
        "format": "text-to-lora report",
        "version": 1,
        "resamples": resamples,
        "bootstrap_seed": seed,
        "conditions": conditions,
        "differences": differences,
        "gap_closed": gap,
        "tasks": {
            task: {
                "group": groups[task],
                "conditions": {
                    name: {measure: table[measure].get(task) for measure in MEASURES}
                    for name, table in tables.items()
                },
            }
            for task in sorted(groups)
        },
    }


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The differences that are reported, the primary ones first."""
    pairs = [("matched", control) for control in CONTROLS]
    pairs += [("in_prompt", "base"), ("multitask", "base"), ("shuffled", "base"), ("junk", "base")]
    for name in names:
        if name.startswith("paraphrase."):
            pairs += [(name, "matched"), (name, "shuffled")]
    return [(first, second) for first, second in pairs if first in names and second in names]


def _values(samples: Iterable[Sample], measure: Measure) -> dict[Key, float]:
    """Value of each row, the mean of several samples of it; rows without the measure are absent."""
    several: dict[Key, list[float]] = {}
    for sample in samples:
        value = getattr(sample, measure)
        if value is not None:
            several.setdefault((sample.task, sample.idx), []).append(float(value))
    return {key: math.fsum(found) / len(found) for key, found in several.items()}


def _task_means(values: Mapping[Key, float]) -> dict[str, float]:
    """Mean over the rows of each task, rows that are not finite left out."""
    rows: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        if math.isfinite(value):
            rows.setdefault(task, []).append(value)
    return {task: math.fsum(found) / len(found) for task, found in rows.items()}


def _compare(
    values: Mapping[Key, float],
    than: Mapping[Key, float],
    measure: Measure,
    bootstrap: GroupBootstrap,
) -> Comparison:
    differences = {key: values[key] - than[key] for key in values if key in than}
    means = _task_means(differences)
    sign = -1 if measure == "nll" else 1
    return Comparison(
        measure=measure,
        difference=bootstrap.mean(means),
        tasks=len(means),
        tasks_better=sum(sign * value > 0 for value in means.values()),
        left_out=sum(not math.isfinite(value) for value in differences.values()),
    )


def _gap_closed(
    values: Mapping[str, Mapping[Measure, Mapping[Key, float]]],
    measure: Measure,
    bootstrap: GroupBootstrap,
) -> dict[str, Any]:
    """Share of the way from base to in_prompt that matched goes: a ratio of means."""
    base, told, matched = (values[name][measure] for name in ("base", "in_prompt", "matched"))
    keys = [
        key
        for key in base
        if key in told
        and key in matched
        and all(math.isfinite(of[key]) for of in (base, told, matched))
    ]
    gap = _task_means({key: told[key] - base[key] for key in keys})
    closed = _task_means({key: matched[key] - base[key] for key in keys})
    return {
        "share": _interval(bootstrap.ratio(closed, gap)),
        "gap": _interval(bootstrap.mean(gap)),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    mean = interval.mean if math.isfinite(interval.mean) else None
    return {"mean": mean, "low": interval.low, "high": interval.high}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        **_interval(comparison.difference),
        "clear_of_zero": comparison.difference.clear_of_zero,
        "tasks": comparison.tasks,
        "tasks_better": comparison.tasks_better,
        "rows_left_out": comparison.left_out,
    }


def render_markdown(report: Mapping[str, Any]) -> str:
    """Give a report as Markdown tables."""
    conditions, tasks = report["conditions"], report["tasks"]
    sizes = f"{len(tasks)} tasks of {len({t['group'] for t in tasks.values()})} source groups"
    parts = [
        "# Held-out tasks",
        (
            f"{sizes}. NLL: nats per token of the first accepted answer, end token included; lower is "
            "better. Score: exact match or ROUGE-L of the greedy answer by the task's metric; higher "
            "is better. Rows are averaged inside tasks, tasks inside groups, and every group counts "
            f"once; brackets are 95% bootstrap intervals over groups ({report['resamples']:,} "
            "resamples). Shuffled is the mean of its derangements."
        ),
        "## Conditions",
        _table(
            ["condition", "tasks", "rows", "NLL", "score", "in label set", "label by NLL", "s"],
            [
                [
                    name,
                    c["tasks"],
                    c["rows"],
                    *(_show(c[measure]) for measure in MEASURES),
                    f"{c['seconds']:.0f}" if "seconds" in c else "",
                ]
                for name, c in conditions.items()
            ],
        ),
        "## Paired differences",
        "Bold: the interval is clear of zero.",
        _table(
            ["difference", "NLL", "tasks better", "score", "tasks better"],
            [
                [name, *(cell for measure in PAIRED for cell in _show_paired(d.get(measure)))]
                for name, d in report["differences"].items()
            ],
        ),
    ]
    if report["gap_closed"]:
        parts += [
            "## Share of the gap from base to in_prompt that matched closes",
            "No interval where the gap itself is not clear of zero.",
            _table(
                ["measure", "share", "gap"],
                [
                    [measure, _show(g["share"]), _show(g["gap"])]
                    for measure, g in report["gap_closed"].items()
                ],
            ),
        ]
    for measure in PAIRED:
        rows = [
            [name, task["group"], *(_number(task["conditions"][c][measure]) for c in conditions)]
            for name, task in tasks.items()
        ]
        title = "NLL" if measure == "nll" else "Score"
        parts += [f"## {title} per task", _table(["task", "group", *conditions], rows)]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _show(interval: Mapping[str, float | None] | None) -> str:
    if interval is None or interval["mean"] is None:
        return ""
    if interval["low"] is None:
        return _number(interval["mean"])
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _show_paired(comparison: Mapping[str, Any] | None) -> tuple[str, str]:
    if comparison is None:
        return "", ""
    text = _show(comparison)
    bold = f"**{text}**" if comparison["clear_of_zero"] else text
    return bold, f"{comparison['tasks_better']}/{comparison['tasks']}"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
