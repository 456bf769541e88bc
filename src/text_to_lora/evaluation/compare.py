"""What changed between two reports, paired by row where samples lie beside both, else by task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.measures import HEADLINE, MEASURES
from text_to_lora.evaluation.paired import (
    EVEN,
    Key,
    Values,
    compare_values,
    interval_dict,
    minus,
    task_means,
)
from text_to_lora.evaluation.report import describe_rows, pairs, read_report, table_of
from text_to_lora.evaluation.samples import Evaluation, in_order, read_evaluation
from text_to_lora.evaluation.stats import RESAMPLES, GroupBootstrap
from text_to_lora.evaluation.tables import brief, flatten

FORMAT, VERSION = "text-to-lora comparison", 1

FOLLOWED = ("matched", "matched - shuffled")
"""Whose largest changes of single tasks are listed."""

LARGEST = 8  # that are listed
SHOWN = 6  # names in a note; JSON has all

_Table = Mapping[str, Mapping[str, Values]]

_Both = tuple[dict[Key, float], dict[Key, float]]
"""Values of the same rows on the two sides."""


@dataclass(frozen=True)
class _Side:
    """One of the two reports; where tasks are paired, a task is one row with idx 0.

    content, tokens: of each row, to tell other rows and another tokenizer
    texts: description that made the adapter and that in the prompt, by condition and row; empty
        where tasks are paired
    """

    name: str
    path: str
    report: Mapping[str, Any]
    values: _Table
    content: Mapping[Key, object]
    tokens: Mapping[Key, int]
    texts: Mapping[str, Mapping[Key, frozenset[tuple[str, str]]]]

    @property
    def tasks(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.report["tasks"]
        return found


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
    names = in_order(set(first.values) & set(second.values))
    if not names:
        raise ConfigError(
            f"A has the conditions {', '.join(first.values)}, B has {', '.join(second.values)}; "
            "compare reports with a condition in common"
        )
    keys = _common_rows(first, second)
    notes = _notes(first, second, keys, by_row=by_row, beside=[e is not None for e in evaluations])
    measures = [
        m for m in MEASURES if m != "nll" or not _count_tokens_otherwise(first, second, keys)
    ]
    conditions = {
        name: _column(first.values, second.values, name, measures, keys) for name in names
    }
    conditions = {name: column for name, column in conditions.items() if column}
    if not conditions:
        raise ConfigError(
            "no measure can be compared: the references have other numbers of tokens, so that NLL "
            "is per another unit, and no condition has answers on both sides"
        )
    differences = {
        f"{one} - {two}": column
        for one, two in pairs(list(conditions))
        if (column := _minus_column(conditions[one], conditions[two]))
    }
    groups = {task: facts["group"] for task, facts in first.tasks.items()}
    bootstrap = GroupBootstrap(groups, resamples=resamples, seed=seed)
    tasks = sorted({task for task, _ in keys})
    return {
        "format": FORMAT,
        "version": VERSION,
        "a": {"path": first.path, "settings": first.report["settings"]},
        "b": {"path": second.path, "settings": second.report["settings"]},
        "paired_by": "row" if by_row else "task",
        "resamples": resamples,
        "bootstrap_seed": seed,
        "tasks": len(tasks),
        "groups": len({groups[task] for task in tasks}),
        "notes": notes,
        "only_in_a": sorted(set(first.tasks) - set(second.tasks)),
        "only_in_b": sorted(set(second.tasks) - set(first.tasks)),
        "other_rows": sorted((set(first.tasks) & set(second.tasks)) - set(tasks)),
        "conditions": _changes(conditions, bootstrap),
        "differences": _changes(differences, bootstrap),
        "largest": _largest(conditions, differences, seed=seed if by_row else None),
        "per_task": _per_task({**conditions, **differences}),
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
    facts = {
        t: {name: task.get(name) for name in rows.get(t, ())} for t, task in report["tasks"].items()
    }
    nll = {name: task_means(table["nll"]) for name, table in table_of(evaluation.samples).items()}
    if (
        facts != rows
        or set(report["conditions"]) != set(nll)
        or any(
            task["conditions"][name]["nll"] != nll[name].get(t)
            for t, task in report["tasks"].items()
            for name in nll
        )
    ):
        raise ConfigError(
            f"{str(path)!r} is not the report of the samples beside it; "
            f"make it anew with `t2l eval report {folder}`"
        )
    return evaluation


def _side(name: str, path: str, report: Mapping[str, Any], evaluation: Evaluation | None) -> _Side:
    if evaluation is None:
        tasks = report["tasks"]
        values = {
            condition: {
                m: {
                    (task, 0): facts["conditions"][condition][m]
                    for task, facts in tasks.items()
                    if facts["conditions"][condition][m] is not None
                }
                for m in MEASURES
            }
            for condition in report["conditions"]
        }
        content = {(task, 0): facts["content"] for task, facts in tasks.items()}
        tokens = {(task, 0): facts["tokens"] for task, facts in tasks.items()}
        return _Side(name, path, report, values, content, tokens, {})
    every = [sample for several in evaluation.samples.values() for sample in several]
    texts: dict[str, dict[Key, frozenset[tuple[str, str]]]] = {}
    for condition, several in evaluation.samples.items():
        found = texts.setdefault(condition, {})
        for s in several:
            key = s.task, s.idx
            found[key] = found.get(key, frozenset()) | {(s.adapter_text, s.prompt_text)}
    return _Side(
        name,
        path,
        report,
        table_of(evaluation.samples),
        {(s.task, s.idx): (s.input, s.outputs) for s in every},
        {(s.task, s.idx): s.tokens for s in every},
        texts,
    )


def _common_rows(a: _Side, b: _Side) -> set[Key]:
    """Rows of equal content.

    Raises ConfigError when there is none.
    """
    if not set(a.tasks) & set(b.tasks):
        raise ConfigError(
            f"A has the tasks {_list(a.tasks)}, B has {_list(b.tasks)}; "
            "compare evaluations with a task in common"
        )
    keys = {key for key, content in a.content.items() if b.content.get(key) == content}
    if not keys:
        raise ConfigError(
            "no task has the same rows in A and B; evaluate both on the same data with the same "
            "--seed and --rows"
        )
    return keys


def _notes(a: _Side, b: _Side, keys: set[Key], *, by_row: bool, beside: list[bool]) -> list[str]:
    """What differs beside the values, one line each."""
    notes = []
    if not by_row and any(beside):
        notes.append(f"samples lie beside {'A' if beside[0] else 'B'} alone, so tasks are paired")
    for side, other in ((a, b), (b, a)):
        if alone := sorted(set(side.tasks) - set(other.tasks)):
            notes.append(f"{len(alone)} tasks in {side.name} only: {_list(alone)}")
        if missing := in_order(set(side.values) - set(other.values)):
            notes.append(f"conditions in {side.name} only: {', '.join(missing)}")
    shared, matched = set(a.tasks) & set(b.tasks), {task for task, _ in keys}
    if others := sorted(shared - matched):
        notes.append(f"{len(others)} tasks have other rows and are left out: {_list(others)}")
    for side in (a, b):
        if lost := sum(key[0] in matched and key not in keys for key in side.content):
            notes.append(
                f"{lost} of {side.name}'s {len(side.content)} rows are left out: the other side "
                "does not have them, or with other content"
            )
    notes += _settings_notes(a, b)
    if _count_tokens_otherwise(a, b, keys):
        notes.append(
            "another tokenizer: references have other numbers of tokens, so that NLL, which is per "
            "token, is not compared"
        )
    for name in in_order(set(a.texts) & set(b.texts)):
        rows = [key for key in keys if key in a.texts[name] and key in b.texts[name]]
        if differ := sum(a.texts[name][key] != b.texts[name][key] for key in rows):
            notes.append(f"{name}: {differ} of {len(rows)} rows have another description")
    if regrouped := sorted(t for t in matched if a.tasks[t]["group"] != b.tasks[t]["group"]):
        notes.append(f"other source groups, A's count: {_list(regrouped)}")
    return notes


def _settings_notes(a: _Side, b: _Side) -> list[str]:
    """Settings, and what conditions are made of, where they differ; the base in one line."""
    shared = set(a.values) & set(b.values)
    old, new = (
        {
            **{name: value for name, value in side.report["settings"].items() if name != "base"},
            **{name: side.report["conditions"][name]["about"] for name in shared},
        }
        for side in (a, b)
    )
    another_base = a.report["settings"].get("base") != b.report["settings"].get("base")
    flat_old, flat_new = dict(flatten(old)), dict(flatten(new))
    return ["another base model"] * another_base + [
        f"another {name}: {brief(flat_old.get(name))} in A, {brief(flat_new.get(name))} in B"
        for name in sorted(set(flat_old) | set(flat_new))
        if flat_old.get(name) != flat_new.get(name)
    ]


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - SHOWN
    return ", ".join(ordered[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _count_tokens_otherwise(a: _Side, b: _Side, keys: set[Key]) -> bool:
    return any(a.tokens[key] != b.tokens[key] for key in keys)


def _column(
    a: _Table, b: _Table, name: str, measures: Sequence[str], keys: set[Key]
) -> dict[str, _Both]:
    """Values of a condition on both sides, by measure."""
    found = {m: _both(a[name][m], b[name][m], keys) for m in measures}
    return {m: both for m, both in found.items() if both[0]}


def _minus_column(one: Mapping[str, _Both], two: Mapping[str, _Both]) -> dict[str, _Both]:
    """Values of a difference of two conditions on both sides, by measure."""
    found = {}
    for m in one:
        if m in two:
            old, new = (minus(*sides) for sides in zip(one[m], two[m], strict=True))
            found[m] = _both(old, new, set(old))
    return {m: both for m, both in found.items() if both[0]}


def _both(a: Values, b: Values, keys: set[Key]) -> _Both:
    """Those of the rows that have a finite value on both sides."""
    rows = [key for key in minus(a, b) if key in keys]
    return {key: a[key] for key in rows}, {key: b[key] for key in rows}


def _changes(
    columns: Mapping[str, Mapping[str, _Both]], bootstrap: GroupBootstrap
) -> dict[str, Any]:
    """Means of both sides, and B minus A with its interval."""
    return {
        name: {
            m: {
                "a": bootstrap.mean(task_means(old)).mean,
                "b": bootstrap.mean(task_means(new)).mean,
                **compare_values(new, old, m, bootstrap).to_dict(),
            }
            for m, (old, new) in column.items()
        }
        for name, column in columns.items()
    }


def _largest(
    conditions: Mapping[str, Mapping[str, _Both]],
    differences: Mapping[str, Mapping[str, _Both]],
    *,
    seed: int | None,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The tasks that changed most under matched and in its difference from shuffled.

    Where neither changed: under any other condition, the one that changed most alone.

    seed: of the intervals over a task's rows; None for none
    """
    every = {**conditions, **differences}
    largest: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for m in HEADLINE:
        moved = {
            name: changes
            for name, column in every.items()
            if m in column and (changes := _moved(*column[m]))
        }
        chosen = [name for name in FOLLOWED if name in moved]
        if not chosen:
            alone = [name for name in moved if name in conditions]
            chosen = sorted(alone, key=lambda name: -max(map(abs, moved[name].values())))[:1]
        largest[m] = {
            name: [
                {"task": task, **_task_change(*every[name][m], task, seed)}
                for task in sorted(moved[name], key=lambda t: (-abs(moved[name][t]), t))[:LARGEST]
            ]
            for name in chosen
        }
    return largest


def _moved(a: Values, b: Values) -> dict[str, float]:
    """Change of each task that changed."""
    return {task: c for task, c in task_means(minus(b, a)).items() if abs(c) > EVEN}


def _task_change(a: Values, b: Values, task: str, seed: int | None) -> dict[str, float | None]:
    """Means of a task on both sides, and their difference; its ends by resampling rows."""
    rows = {str(idx): (a[t, idx], b[t, idx]) for t, idx in a if t == task}
    bootstrap = GroupBootstrap({row: row for row in rows}, seed=seed or 0)
    change = bootstrap.mean({row: new - old for row, (old, new) in rows.items()})
    return {
        "a": math.fsum(old for old, _ in rows.values()) / len(rows),
        "b": math.fsum(new for _, new in rows.values()) / len(rows),
        **interval_dict(change),
    }


def _per_task(columns: Mapping[str, Mapping[str, _Both]]) -> dict[str, Any]:
    """Means of both sides and their difference, by task, condition or difference, and measure."""
    found: dict[str, Any] = {}
    for name, column in columns.items():
        for m, (a, b) in column.items():
            old, new, change = task_means(a), task_means(b), task_means(minus(b, a))
            for task in change:
                found.setdefault(task, {}).setdefault(name, {})[m] = {
                    "a": old[task],
                    "b": new[task],
                    "change": change[task],
                }
    return found
