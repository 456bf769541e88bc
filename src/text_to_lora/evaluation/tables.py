"""Reports and comparisons of reports as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from text_to_lora.evaluation.conditions import CONDITIONS, Condition
from text_to_lora.evaluation.measures import HEADLINE, MEASURES


def render_report(report: Mapping[str, Any]) -> str:
    """Give a report as Markdown tables."""
    conditions, tasks = report["conditions"], report["tasks"]
    parts = [
        "# Tasks under conditions",
        (
            f"{len(tasks)} tasks of {len({t['group'] for t in tasks.values()})} source groups. NLL: "
            "nats per token of the first accepted answer, end token included; lower is better. "
            "Score: of the greedy answer by the task's metric; higher is better. Rows are averaged "
            "inside tasks, tasks inside groups, and every group counts once; brackets are 95% "
            f"bootstrap intervals over groups ({report['resamples']:,} resamples)."
        ),
        "\n".join(_kinds(conditions)),
        "Settings: "
        + ", ".join(f"{name}: {brief(value)}" for name, value in flatten(report["settings"]))
        + ".",
        "## Conditions",
        "Cut: prompts that lost tokens to fit. s: seconds of scoring.",
        table(
            ["condition", "tasks", "rows", "cut", "NLL", "score", "s"],
            [
                [
                    name,
                    c["tasks"],
                    c["rows"],
                    _share_cut(c),
                    *(show(c[measure]) for measure in HEADLINE),
                    f"{c['seconds']:.0f}",
                ]
                for name, c in conditions.items()
            ],
        ),
        *(
            f"{name}: {c['shots_left_out']} examples did not fit the prompts and are left out."
            for name, c in conditions.items()
            if c["shots_left_out"]
        ),
        *_common_tasks(report),
        *_measures(report),
        *_differences(report),
        *_descriptions(report),
        *_gaps(report),
    ]
    for measure in HEADLINE:
        rows = [
            [name, task["group"], *(number(task["conditions"][c][measure]) for c in conditions)]
            for name, task in tasks.items()
        ]
        title = f"## {_heading(measure)} per task"
        parts += [title, table(["task", "group", *conditions], rows)]
    return "\n\n".join(parts) + "\n"


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Give a comparison of two reports as Markdown tables."""
    a, b = comparison["a"], comparison["b"]
    parts = [
        "# What changed",
        f"A: {a['path']}\n\nB: {b['path']}",
        (
            f"{comparison['tasks']} tasks of {comparison['groups']} source groups, paired by "
            f"{comparison['paired_by']}. A change is B minus A: a lower NLL and more of anything "
            "else are better. Brackets are 95% bootstrap intervals over groups "
            f"({comparison['resamples']:,} resamples); bold: the interval is clear of zero."
        ),
    ]
    if comparison["notes"]:
        parts.append("\n".join(f"- {note}" for note in comparison["notes"]))
    for title, found, measures in (
        ("Conditions", comparison["conditions"], tuple(MEASURES)),
        ("Paired differences", comparison["differences"], HEADLINE),
    ):
        if found:
            parts.append(f"## {title}")
        for measure in measures:
            parts += _changes(title.lower()[:-1], measure, found)
    largest = {m: found for m, found in comparison["largest"].items() if found}
    if largest:
        parts += [
            "## Largest changes of single tasks",
            (
                "Brackets: 95% bootstrap over the task's rows."
                if comparison["paired_by"] == "row"
                else "No intervals: the reports alone do not hold a task's rows."
            ),
        ]
    for measure, columns in largest.items():
        for name, changes in columns.items():
            rows = [[c["task"], number(c["a"]), number(c["b"]), show(c, sign="+")] for c in changes]
            head = ["task", "A", "B", "change"]
            parts += [f"{_heading(measure)}, {name}:", table(head, rows)]
    return "\n\n".join(parts) + "\n"


def _changes(what: str, measure: str, found: Mapping[str, Any]) -> list[str]:
    """What changed in one measure as a table, and in one line what did not."""
    has = {name: column[measure] for name, column in found.items() if measure in column}
    same = [name for name, c in has.items() if c["tasks_equal"] == c["tasks"]]
    rows = [
        [name, number(c["a"]), number(c["b"]), *show_paired(c, sign="+")]
        for name, c in has.items()
        if name not in same
    ]
    parts = []
    if rows:
        head = [what, "A", "B", "change", "tasks better"]
        parts += [f"{_heading(measure)}:", table(head, rows)]
    if same and not rows:
        parts.append(f"{_heading(measure)} is the same everywhere.")
    elif same:
        parts.append(f"{_heading(measure)} is the same in every task: {', '.join(same)}.")
    return parts


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Give a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the values inside nested objects, each with its path, as in "settings.seed"."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def brief(value: object) -> str:
    """Give a JSON value in one short line; a long one, such as a hash, loses its middle."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:14]}…{text[-4:]}"


def number(value: float | None, *, sign: str = "") -> str:
    """Give three digits; "" for None. `sign` is "+" for one before every number."""
    return "" if value is None else f"{value:{sign}.3f}"


def show(interval: Mapping[str, Any] | None, *, sign: str = "") -> str:
    """Give a mean and its ends, as far as it has them."""
    if interval is None or interval["mean"] is None:
        return ""
    mean, low, high = (number(interval[part], sign=sign) for part in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low else mean


def show_paired(comparison: Mapping[str, Any] | None, *, sign: str = "") -> tuple[str, str]:
    """Give a difference, bold where clear of zero, and in how many tasks it is for the better."""
    if comparison is None:
        return "", ""
    text = show(comparison, sign=sign)
    bold = f"**{text}**" if comparison["clear_of_zero"] else text
    return bold, f"{comparison['tasks_better']}/{comparison['tasks']}"


def _kinds(conditions: Mapping[str, Any]) -> list[str]:
    """A line about each kind: what it is, and what it is made of here."""
    titles = {condition.kind: condition.title for condition in CONDITIONS}
    lines = {}
    for name, condition in conditions.items():
        kind = name.split(".")[0]
        made = ", ".join(f"{what}: {brief(value)}" for what, value in condition["about"].items())
        lines[kind] = f"- {kind}: {titles.get(kind, Condition.title)}" + (
            f" ({made})" if made else ""
        )
    return list(lines.values())


def _heading(measure: str) -> str:
    title = MEASURES[measure].title
    return title[0].upper() + title[1:]


def _share_cut(condition: Mapping[str, Any]) -> str:
    cut, prompts = condition["prompts_cut"], condition["prompts"]
    return f"{cut} ({cut / prompts:.0%})" if cut else "0"


def _common_tasks(report: Mapping[str, Any]) -> list[str]:
    common = report["common_tasks"]
    if common is None:
        return []
    return [
        "### On the tasks that all conditions have",
        (
            f"Some conditions do not have all tasks, so the means above are of different ones; those "
            f"below are over the {common['tasks']} tasks that all have. Differences and shares of "
            "gaps are always over the tasks that the conditions concerned have."
        ),
        table(
            ["condition", *(_heading(measure) for measure in HEADLINE)],
            [[name, *(show(c[m]) for m in HEADLINE)] for name, c in common["conditions"].items()],
        ),
    ]


def _measures(report: Mapping[str, Any]) -> list[str]:
    """What each measure covers, and the means in those that are not in the first table."""
    covered = {name: m for name, m in report["measures"].items() if m["tasks"]}
    others = [name for name in covered if name not in HEADLINE]
    rows = [[m["title"], m["tasks"], m["rows"], m["covers"]] for m in covered.values()]
    parts = ["## Measures", table(["measure", "tasks", "rows", "covers"], rows)]
    if others:
        head = ["condition", *(covered[name]["title"] for name in others)]
        parts.append(
            table(
                head,
                [[n, *(show(c[m]) for m in others)] for n, c in report["conditions"].items()],
            )
        )
    return parts


def _differences(report: Mapping[str, Any]) -> list[str]:
    differences = report["differences"]
    if not differences:
        return []
    parts = [
        "## Paired differences",
        "First minus second, over the rows that both have. Bold: the interval is clear of zero.",
        _difference_table(differences),
    ]
    others = [
        m for m in MEASURES if m not in HEADLINE and any(m in d for d in differences.values())
    ]
    if others:
        rows = [
            [name, *(show_paired(d.get(measure))[0] for measure in others)]
            for name, d in differences.items()
        ]
        parts += [
            "The same in the other measures:",
            table(["difference", *(MEASURES[measure].title for measure in others)], rows),
        ]
    return parts


def _difference_table(differences: Mapping[str, Any]) -> str:
    return table(
        ["difference", "NLL", "tasks better", "score", "tasks better"],
        [
            [name, *(cell for measure in HEADLINE for cell in show_paired(d.get(measure)))]
            for name, d in differences.items()
        ],
    )


def _descriptions(report: Mapping[str, Any]) -> list[str]:
    found = report["descriptions"]
    if found is None:
        return []
    names = found["conditions"]
    rows = [
        [
            MEASURES[measure].title,
            *(number(m["means"][name]) for name in names),
            show(m),
            number(m["sd"]),
            f"{m['range'][0]:.3f} to {m['range'][1]:.3f}",
            number(m["within_tasks"]),
        ]
        for measure, m in found["measures"].items()
    ]
    return [
        "## Matched over several descriptions",
        (
            f"{len(names)} descriptions of each of the {found['tasks']} tasks that have as many. SD: "
            "standard deviation between the descriptions' means; SD inside tasks: that between the "
            "descriptions of one task, mean over tasks."
        ),
        table(["measure", *names, "mean", "SD", "range", "SD inside tasks"], rows),
        "Their mean against the other conditions on these tasks:",
        _difference_table(found["differences"]),
    ]


def _gaps(report: Mapping[str, Any]) -> list[str]:
    if not report["gap_closed"]:
        return []
    parts = [
        "## Shares of the gaps from base",
        (
            "How much of the way from base to the goal a condition goes: 0 is base, 1 the goal. Ratio "
            "of means over the tasks that all three have; no interval where the gap is not clear of "
            'zero, and no share ("–") where the goal is not better than base.'
        ),
    ]
    for goal, conditions in report["gap_closed"].items():
        rows = [
            [name, *(cell for measure in HEADLINE for cell in _show_gap(found.get(measure)))]
            for name, found in conditions.items()
        ]
        head = ["condition"]
        for measure in HEADLINE:
            title = MEASURES[measure].title
            head += [f"share in {title}", f"gap in {title}", "tasks"]
        parts += [f"### base to {goal}", table(head, rows)]
    return parts


def _show_gap(found: Mapping[str, Any] | None) -> tuple[str, str, object]:
    if found is None:
        return "", "", ""
    return show(found["share"]) or "–", show(found["gap"]), found["tasks"]
