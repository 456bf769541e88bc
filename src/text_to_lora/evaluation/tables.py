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
    num_groups = len({task["group"] for task in tasks.values()})
    settings = ", ".join(f"{name}: {brief(value)}" for name, value in flatten(report["settings"]))
    parts = [
        "# Tasks under conditions",
        f"{len(tasks)} tasks of {num_groups} source groups. NLL: nats per token of the first accepted "
        "answer, end token included; lower is better. Score: of the greedy answer by the task's metric; "
        "higher is better. Rows are averaged inside tasks, tasks inside groups, and every group counts "
        "once; brackets are 95% bootstrap intervals over groups "
        f"({report['resamples']:,} resamples).",
        "\n".join(_kinds(conditions)),
        f"Settings: {settings}.",
        *_conditions(conditions),
        *_common_tasks(report["common_tasks"]),
        *_measures(report["measures"], conditions),
        *_differences(report["differences"]),
        *_descriptions(report["descriptions"]),
        *_gaps(report["gap_closed"]),
    ]
    for measure in HEADLINE:
        if not report["measures"][measure]["tasks"]:
            continue
        rows = [
            [name, task["group"], *(number(task["conditions"][c][measure]) for c in conditions)]
            for name, task in tasks.items()
        ]
        parts.append(f"## {_heading(measure)} per task")
        parts.append(table(["task", "group", *conditions], rows))
    return "\n\n".join(parts) + "\n"


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Give a comparison of two reports as Markdown tables."""
    by_row = comparison["paired_by"] == "row"
    parts = [
        "# What changed",
        f"A: {comparison['a']['path']}\n\nB: {comparison['b']['path']}",
        f"{comparison['tasks']} tasks of {comparison['groups']} source groups, paired by "
        f"{comparison['paired_by']}. A change is B minus A: a lower NLL and more of anything else are "
        "better. Brackets are 95% bootstrap intervals over groups "
        f"({comparison['resamples']:,} resamples); bold: the interval is clear of zero.",
    ]
    if comparison["notes"]:
        parts.append("\n".join(f"- {note}" for note in comparison["notes"]))
    for title, columns, measures in (
        ("Conditions", comparison["conditions"], tuple(MEASURES)),
        ("Paired differences", comparison["differences"], HEADLINE),
    ):
        if columns:
            parts.append(f"## {title}")
        for measure in measures:
            changes = {
                name: column[measure] for name, column in columns.items() if measure in column
            }
            parts += _changes(title.lower()[:-1], measure, changes)
    if any(comparison["largest"].values()):
        parts += [
            "## Largest changes of single tasks",
            "Brackets: 95% bootstrap over the task's rows."
            if by_row
            else "There are no intervals, since the reports alone do not hold a task's rows.",
        ]
    for measure, columns in comparison["largest"].items():
        for name, changes in columns.items():
            rows = [[c["task"], number(c["a"]), number(c["b"]), show(c, sign="+")] for c in changes]
            parts.append(f"{_heading(measure)}, {name}:")
            parts.append(table(["task", "A", "B", "change"], rows))
    return "\n\n".join(parts) + "\n"


def _changes(what: str, measure: str, changes: Mapping[str, Any]) -> list[str]:
    """What changed in one measure as a table, and in one line what did not."""
    same = [name for name, change in changes.items() if change["tasks_equal"] == change["tasks"]]
    rows = [
        [name, number(change["a"]), number(change["b"]), *show_paired(change, sign="+")]
        for name, change in changes.items()
        if name not in same
    ]
    parts = []
    if rows:
        parts.append(f"{_heading(measure)}:")
        parts.append(table([what, "A", "B", "change", "tasks better"], rows))
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
    """A line about each kind of condition: what it is, and what it is made of here."""
    titles = {condition.kind: condition.title for condition in CONDITIONS}
    lines = {}
    for name, condition in conditions.items():
        kind = name.split(".")[0]
        about = ", ".join(f"{what}: {brief(value)}" for what, value in condition["about"].items())
        title = titles.get(kind, Condition.title)
        lines[kind] = f"- {kind}: {title}" + (f" ({about})" if about else "")
    return list(lines.values())


def _heading(measure: str) -> str:
    title = MEASURES[measure].title
    return title[0].upper() + title[1:]


def _means(conditions: Mapping[str, Any], measures: Sequence[str]) -> str:
    """A table of means: a line for each condition, a column for each measure."""
    head = ["condition", *(MEASURES[measure].title for measure in measures)]
    return table(head, [[n, *(show(c[m]) for m in measures)] for n, c in conditions.items()])


def _conditions(conditions: Mapping[str, Any]) -> list[str]:
    def line(name: str, condition: Mapping[str, Any]) -> list[object]:
        cut = condition["prompts_cut"]
        share = f"{cut} ({cut / condition['prompts']:.0%})" if cut else "0"
        means = [show(condition[measure]) for measure in HEADLINE]
        seconds = f"{condition['seconds']:.0f}"
        return [name, condition["tasks"], condition["rows"], share, *means, seconds]

    return [
        "## Conditions",
        "Cut: prompts that lost tokens to fit. s: seconds of scoring.",
        table(
            ["condition", "tasks", "rows", "cut", "NLL", "score", "s"],
            [line(name, condition) for name, condition in conditions.items()],
        ),
        *(
            f"{name}: {c['shots_left_out']} examples did not fit the prompts and are left out."
            for name, c in conditions.items()
            if c["shots_left_out"]
        ),
    ]


def _common_tasks(common: Mapping[str, Any] | None) -> list[str]:
    if common is None:
        return []
    return [
        "### On the tasks that all conditions have",
        "Some conditions do not have all tasks, so the means above are of different ones; those below "
        f"are over the {common['tasks']} tasks that all have. Differences and shares of gaps are always "
        "over the tasks that the conditions concerned have.",
        _means(common["conditions"], HEADLINE),
    ]


def _measures(measures: Mapping[str, Any], conditions: Mapping[str, Any]) -> list[str]:
    """What each measure covers, and the means in those that are not in the first table."""
    covered = {name: measure for name, measure in measures.items() if measure["tasks"]}
    rows = [[m["title"], m["tasks"], m["rows"], m["covers"]] for m in covered.values()]
    others = [name for name in covered if name not in HEADLINE]
    return [
        "## Measures",
        table(["measure", "tasks", "rows", "covers"], rows),
        *([_means(conditions, others)] if others else []),
    ]


def _differences(differences: Mapping[str, Any]) -> list[str]:
    if not differences:
        return []
    others = [
        m for m in MEASURES if m not in HEADLINE and any(m in d for d in differences.values())
    ]
    parts = [
        "## Paired differences",
        "First minus second, over the rows that both have. Bold: the interval is clear of zero.",
        _difference_table(differences),
    ]
    if others:
        parts.append("The same in the other measures:")
        rows = [[n, *(show_paired(d.get(m))[0] for m in others)] for n, d in differences.items()]
        parts.append(table(["difference", *(MEASURES[m].title for m in others)], rows))
    return parts


def _difference_table(differences: Mapping[str, Any]) -> str:
    return table(
        ["difference", "NLL", "tasks better", "score", "tasks better"],
        [
            [name, *(cell for measure in HEADLINE for cell in show_paired(d.get(measure)))]
            for name, d in differences.items()
        ],
    )


def _descriptions(descriptions: Mapping[str, Any] | None) -> list[str]:
    if descriptions is None:
        return []
    names = descriptions["conditions"]
    rows = [
        [
            MEASURES[measure].title,
            *(number(m["means"][name]) for name in names),
            show(m),
            number(m["sd"]),
            f"{m['range'][0]:.3f} to {m['range'][1]:.3f}",
            number(m["within_tasks"]),
        ]
        for measure, m in descriptions["measures"].items()
    ]
    return [
        "## Matched over several descriptions",
        f"{len(names)} descriptions of each of the {descriptions['tasks']} tasks that have as many. SD: "
        "standard deviation between the descriptions' means; SD inside tasks: that between the "
        "descriptions of one task, mean over tasks.",
        table(["measure", *names, "mean", "SD", "range", "SD inside tasks"], rows),
        "Their mean against the other conditions on these tasks:",
        _difference_table(descriptions["differences"]),
    ]


def _gaps(gaps: Mapping[str, Any]) -> list[str]:
    if not gaps:
        return []

    def cells(gap: Mapping[str, Any] | None) -> list[object]:
        if gap is None:
            return ["", "", ""]
        return [show(gap["share"]) or "–", show(gap["gap"]), gap["tasks"]]

    parts = [
        "## Shares of the gaps from base",
        "How much of the way from base to the goal a condition goes: 0 is base, 1 the goal. Ratio of "
        "means over the tasks that all three have; no interval where the gap is not clear of zero, and "
        'no share ("–") where the goal is not better than base.',
    ]
    titles = [MEASURES[measure].title for measure in HEADLINE]
    head = ["condition", *(h for t in titles for h in (f"share in {t}", f"gap in {t}", "tasks"))]
    for goal, conditions in gaps.items():
        rows = [
            [name, *(cell for measure in HEADLINE for cell in cells(gap.get(measure)))]
            for name, gap in conditions.items()
        ]
        parts += [f"### base to {goal}", table(head, rows)]
    return parts
