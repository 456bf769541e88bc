"""What changed between two reports, paired by row where samples lie beside both, else by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series  # type: ignore[import-untyped]

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.report import describe_rows, pairs, read_report
from text_to_lora.evaluation.samples import Evaluation, in_order, read_evaluation
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap
from text_to_lora.evaluation.tables import brief, flatten
from text_to_lora.evaluation.values import (
    EVEN,
    ROW,
    Tables,
    compare_columns,
    finite,
    tables_of,
    tables_of_report,
    task_means,
)

FORMAT, VERSION = "text-to-lora comparison", 1

FOLLOWED = ("matched", "matched - shuffled")
"""Whose largest changes of single tasks are listed."""

LARGEST = 8  # tasks that are listed
SHOWN = 6  # names in a note; the JSON has all

_Columns = dict[str, dict[str, tuple[Series, Series]]]
"""By condition or difference, and measure: the values of the same rows in A and in B."""


@dataclass(frozen=True)
class _Side:
    """One of the two reports; where tasks are paired, a task is one row with idx 0.

    rows: content and tokens of each row, to tell other rows and another tokenizer
    texts: what made the adapter and what stood in the prompt, [rows, conditions]; empty where tasks
        are paired
    """

    name: str
    path: str
    report: Mapping[str, Any]
    tables: Tables
    rows: DataFrame
    texts: DataFrame

    @property
    def tasks(self) -> Mapping[str, Any]:
        tasks: Mapping[str, Any] = self.report["tasks"]
        return tasks

    @property
    def conditions(self) -> Mapping[str, Any]:
        conditions: Mapping[str, Any] = self.report["conditions"]
        return conditions


def compare_reports(
    a: Path | str, b: Path | str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compare two reports: B minus A by condition, by paired difference and by task.

    a, b: report.json, or the folder that it lies in

    Rows are paired where the samples lie beside both reports, tasks otherwise; only rows of equal
    content count. What else differs is said under "notes". Likelihoods are left out where the
    references have other numbers of tokens, since they are then per another unit.

    Raises ConfigError when a file is not a report of this version or not that of the samples beside
    it, and when the two have no condition, no task, no row or no measure in common.
    """
    reports = [read_report(path) for path in (a, b)]
    evaluations = [_samples_beside(Path(path), r) for path, r in zip((a, b), reports, strict=True)]
    by_row = None not in evaluations
    first, second = (
        _side(name, str(path), report, evaluation if by_row else None)
        for name, path, report, evaluation in zip("AB", (a, b), reports, evaluations, strict=True)
    )
    rows = _common_rows(first, second)
    notes = _notes(first, second, rows, by_row=by_row, beside=[e is not None for e in evaluations])
    conditions, differences = _columns(first, second, rows)
    bootstrap = GroupBootstrap(
        {task: facts["group"] for task, facts in first.tasks.items()},
        resamples=resamples,
        seed=seed,
    )
    tasks = sorted(rows.index.unique("task"))
    return {
        "format": FORMAT,
        "version": VERSION,
        "a": {"path": first.path, "settings": first.report["settings"]},
        "b": {"path": second.path, "settings": second.report["settings"]},
        "paired_by": "row" if by_row else "task",
        "resamples": resamples,
        "bootstrap_seed": seed,
        "tasks": len(tasks),
        "groups": len({first.tasks[task]["group"] for task in tasks}),
        "notes": notes,
        "only_in_a": sorted(set(first.tasks) - set(second.tasks)),
        "only_in_b": sorted(set(second.tasks) - set(first.tasks)),
        "other_rows": sorted((set(first.tasks) & set(second.tasks)) - set(tasks)),
        "conditions": _changes(conditions, bootstrap),
        "differences": _changes(differences, bootstrap),
        "largest": _largest(conditions, differences, seed=seed if by_row else None),
        "per_task": _per_task(conditions | differences),
    }


def _samples_beside(path: Path, report: Mapping[str, Any]) -> Evaluation | None:
    """The samples that a report was made from; None where there are none beside it.

    Raises ConfigError when the report is not that of the samples beside it.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / "run.json").exists() or not any((folder / "samples").glob("*.parquet")):
        return None
    evaluation = read_evaluation(folder)
    rows = describe_rows(evaluation.samples)
    tasks = report["tasks"]
    facts = {t: {name: task.get(name) for name in rows.get(t, ())} for t, task in tasks.items()}
    nll = task_means(tables_of(evaluation.samples)["nll"])
    if (
        facts != rows
        or set(report["conditions"]) != set(evaluation.samples)
        or not task_means(tables_of_report(report)["nll"])[nll.columns].equals(nll)
    ):
        raise ConfigError(
            f"{str(path)!r} is not the report of the samples beside it; "
            f"make it anew with `t2l eval report {folder}`"
        )
    return evaluation


def _side(name: str, path: str, report: Mapping[str, Any], evaluation: Evaluation | None) -> _Side:
    if evaluation is None:
        tables = tables_of_report(report)
        facts = DataFrame.from_dict(report["tasks"], orient="index", dtype=object)[
            ["content", "tokens"]
        ]
        return _Side(name, path, report, tables, facts.set_axis(tables["nll"].index), DataFrame())
    records = [
        (
            label,
            s.task,
            s.idx,
            str((s.input, s.outputs)),
            s.tokens,
            f"{s.adapter_text}\n{s.prompt_text}",
        )
        for label, members in evaluation.samples.items()
        for s in members
    ]
    frame = DataFrame(records, columns=["condition", *ROW, "content", "tokens", "text"])
    texts = frame.sort_values("text").groupby([*ROW, "condition"])["text"].sum()
    rows = frame.groupby(ROW)[["content", "tokens"]].first()
    return _Side(
        name, path, report, tables_of(evaluation.samples), rows, texts.unstack("condition")
    )


def _common_rows(a: _Side, b: _Side) -> DataFrame:
    """Rows of equal content, and whether each has as many tokens on both sides.

    Raises ConfigError when there is none, or no condition in common.
    """
    if not set(a.conditions) & set(b.conditions):
        raise ConfigError(
            f"A has the conditions {', '.join(a.conditions)}, B has {', '.join(b.conditions)}; "
            "compare reports with a condition in common"
        )
    if not set(a.tasks) & set(b.tasks):
        raise ConfigError(
            f"A has the tasks {_list(a.tasks)}, B has {_list(b.tasks)}; "
            "compare evaluations with a task in common"
        )
    rows = a.rows.join(b.rows.add_suffix("_b"), how="inner")
    rows = rows[rows["content"] == rows["content_b"]].sort_index()
    if rows.empty:
        raise ConfigError(
            "no task has the same rows in A and B; evaluate both on the same data with the same "
            "--seed and --rows"
        )
    return DataFrame({"same_tokens": rows["tokens"] == rows["tokens_b"]})


def _notes(a: _Side, b: _Side, rows: DataFrame, *, by_row: bool, beside: list[bool]) -> list[str]:
    """What differs beside the values, one line each."""
    notes = []
    if not by_row and any(beside):
        notes.append(f"samples lie beside {'A' if beside[0] else 'B'} alone, so tasks are paired")
    for side, other in ((a, b), (b, a)):
        if alone := sorted(set(side.tasks) - set(other.tasks)):
            notes.append(f"{len(alone)} tasks in {side.name} only: {_list(alone)}")
        if missing := in_order(set(side.conditions) - set(other.conditions)):
            notes.append(f"conditions in {side.name} only: {', '.join(missing)}")
    tasks = rows.index.unique("task")
    if others := sorted((set(a.tasks) & set(b.tasks)) - set(tasks)):
        notes.append(f"{len(others)} tasks have other rows and are left out: {_list(others)}")
    for side in (a, b):
        if lost := len(side.rows.loc[list(tasks)]) - len(rows):
            notes.append(
                f"{lost} of {side.name}'s {len(side.rows)} rows are left out: the other side "
                "does not have them, or with other content"
            )
    notes += _settings_notes(a, b)
    if not rows["same_tokens"].all():
        notes.append(
            "another tokenizer: references have other numbers of tokens, so that NLL, which is per "
            "token, is not compared"
        )
    for name in in_order(set(a.texts) & set(b.texts)):
        texts = DataFrame({side.name: side.texts[name] for side in (a, b)}).reindex(rows.index)
        texts = texts.dropna()
        if differ := int((texts["A"] != texts["B"]).sum()):
            notes.append(f"{name}: {differ} of {len(texts)} rows have another description")
    if regrouped := sorted(t for t in tasks if a.tasks[t]["group"] != b.tasks[t]["group"]):
        notes.append(f"other source groups, A's count: {_list(regrouped)}")
    return notes


def _settings_notes(a: _Side, b: _Side) -> list[str]:
    """Settings, and what conditions are made of, where they differ; the base in one line."""
    shared = set(a.conditions) & set(b.conditions)
    bases = [side.report["settings"].get("base") for side in (a, b)]
    old, new = (
        dict(
            flatten(
                {name: value for name, value in side.report["settings"].items() if name != "base"}
                | {name: side.conditions[name]["about"] for name in shared}
            )
        )
        for side in (a, b)
    )
    notes = ["another base model"] if bases[0] != bases[1] else []
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            values = f"{brief(old.get(name))} in A, {brief(new.get(name))} in B"
            notes.append(f"another {name}: {values}")
    return notes


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - SHOWN
    return ", ".join(ordered[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _columns(a: _Side, b: _Side, rows: DataFrame) -> tuple[_Columns, _Columns]:
    """Values of the common rows on both sides, of conditions and of their differences.

    Raises ConfigError when there is no measure that both sides have.
    """
    tables = [
        (m, a.tables[m].reindex(rows.index), b.tables[m].reindex(rows.index))
        for m in MEASURES
        if m != "nll" or rows["same_tokens"].all()
    ]
    names = in_order(set(a.conditions) & set(b.conditions))
    conditions = _gather((n, m, old[n], new[n]) for n in names for m, old, new in tables)
    if not conditions:
        raise ConfigError(
            "no measure can be compared: the references have other numbers of tokens, so that NLL "
            "is per another unit, and no condition has answers on both sides"
        )
    differences = _gather(
        (f"{one} - {two}", m, old[one] - old[two], new[one] - new[two])
        for one, two in pairs(list(conditions))
        for m, old, new in tables
    )
    return conditions, differences


def _gather(columns: Iterable[tuple[str, str, Series, Series]]) -> _Columns:
    """Columns by name and measure, on the rows that have a finite value on both sides."""
    gathered: _Columns = {}
    for name, measure, old, new in columns:
        rows = finite(new - old).index
        if len(rows):
            gathered.setdefault(name, {})[measure] = old[rows], new[rows]
    return gathered


def _changes(columns: _Columns, bootstrap: GroupBootstrap) -> dict[str, Any]:
    """Means of both sides, and B minus A with its interval."""
    changes: dict[str, Any] = {}
    for name, column in columns.items():
        for measure, (old, new) in column.items():
            a, b = (float(bootstrap.group_means(task_means(side)).mean()) for side in (old, new))
            change = compare_columns(new, old, measure, bootstrap) or {}
            changes.setdefault(name, {})[measure] = {"a": a, "b": b, **change}
    return changes


def _largest(
    conditions: _Columns, differences: _Columns, *, seed: int | None
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The tasks that changed most under matched and in its difference from shuffled.

    Where neither changed, those under the other condition of which one task changed most.

    seed: of the intervals over a task's rows; None for none
    """
    columns = conditions | differences
    largest: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for measure in HEADLINE:
        changes = {}
        for name, column in columns.items():
            if measure in column:
                old, new = column[measure]
                means = task_means(new - old)
                means = means[means.abs() > EVEN]
                if len(means):
                    changes[name] = means
        names = [name for name in FOLLOWED if name in changes]
        if not names:
            others = [name for name in changes if name in conditions]
            names = sorted(others, key=lambda name: -changes[name].abs().max())[:1]
        largest[measure] = {
            name: [
                {"task": task, **_task_change(*columns[name][measure], task, seed)}
                for task in changes[name]
                .abs()
                .sort_values(ascending=False, kind="stable")
                .index[:LARGEST]
            ]
            for name in names
        }
    return largest


def _task_change(old: Series, new: Series, task: str, seed: int | None) -> dict[str, float | None]:
    """Means of a task on both sides, and their difference with an interval by resampling rows."""
    old, new = old.loc[task], new.loc[task]
    rows = [str(idx) for idx in old.index]
    bootstrap = GroupBootstrap({row: row for row in rows}, seed=seed or 0)
    change = bootstrap.mean(dict(zip(rows, new - old, strict=True)))
    return {"a": float(old.mean()), "b": float(new.mean()), **change.to_dict()}


def _per_task(columns: _Columns) -> dict[str, Any]:
    """Means of both sides and their difference, by task, condition or difference, and measure."""
    tasks: dict[str, Any] = {}
    for name, column in columns.items():
        for measure, (old, new) in column.items():
            sides = {"a": old, "b": new, "change": new - old}
            means = DataFrame({side: task_means(values) for side, values in sides.items()})
            for task, change in means.to_dict("index").items():
                tasks.setdefault(task, {}).setdefault(name, {})[measure] = change
    return tasks
