"""The paper's tables of benchmarks as data, and ours beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS
from text_to_lora.evaluation.tables import KINDS, table

START, END = "<!-- published -->", "<!-- /published -->"
"""Between these lines `docs/paper.md` holds what `render_published` gives."""

_TITLES: Final = {benchmark.name: benchmark.title for benchmark in BENCHMARKS}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table, in percent.

    kind: the condition here that asks the same; None for none
    values: by benchmark; averages: as printed, by name of the column; None where none is published
    """

    name: str
    kind: str | None
    values: Mapping[str, float | None]
    averages: Mapping[str, float | None]


@dataclass(frozen=True)
class PublishedTable:
    """One table.

    tag: how the figures were had, a key of `Published.tags`
    averages: benchmarks that a column of averages is over, by its name
    """

    id: str
    title: str
    base: str
    tag: str
    columns: tuple[str, ...]
    averages: Mapping[str, tuple[str, ...]]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PublishedSet:
    """The rows of a benchmark that the paper scores; `tag` as in PublishedTable."""

    data: str
    rows: int
    tag: str


@dataclass(frozen=True)
class Published:
    """All tables, the sets that they are of, and what tags mean."""

    source: str
    tags: Mapping[str, str]
    sets: Mapping[str, PublishedSet]
    tables: Mapping[str, PublishedTable]


@dataclass(frozen=True)
class OurSet:
    """The rows of a benchmark that were scored here.

    differs: from the paper's in what, beside their number; "" for nothing known
    """

    data: str
    rows: int
    differs: str = ""


@cache
def published() -> Published:
    """Read the tables that come with the package."""
    file = Path(__file__).with_name("published.json")
    payload = json.loads(file.read_text(encoding="utf-8"))
    return Published(
        source=payload["source"],
        tags=payload["tags"],
        sets={name: PublishedSet(**fields) for name, fields in payload["sets"].items()},
        tables={entry["id"]: _table(entry) for entry in payload["tables"]},
    )


def _table(entry: Mapping[str, Any]) -> PublishedTable:
    columns = tuple(entry["columns"])
    averages = {name: tuple(over) for name, over in entry["averages"].items()}
    rows = tuple(
        PublishedRow(
            row["name"],
            row["kind"],
            dict(zip(columns, row["values"], strict=True)),
            dict(zip(averages, row["averages"], strict=True)),
        )
        for row in entry["rows"]
    )
    fields = {name: entry[name] for name in ("id", "title", "base", "tag")}
    return PublishedTable(
        **fields, columns=columns, averages=averages, rows=rows, notes=tuple(entry["notes"])
    )


def find_table(name: str) -> PublishedTable:
    """Give a table by its id, such as table2.

    Raises ConfigError for an unknown one.
    """
    tables = published().tables
    if name not in tables:
        raise ConfigError(f"unknown table {name!r} of the paper; choose among {', '.join(tables)}")
    return tables[name]


def render_published() -> str:
    """Give all tables as Markdown, in the order of the paper."""
    known = published()
    parts = [
        f"Percent, from {known.source}. "
        + "; ".join(f"[{tag}] {meaning}" for tag, meaning in known.tags.items())
        + ".",
    ]
    for one in known.tables.values():
        head = ["", *(_TITLES[name] for name in one.columns), *one.averages]
        rows = [
            [
                row.name,
                *(_percent(value, one.tag) for value in row.values.values()),
                *(_percent(value, one.tag) for value in row.averages.values()),
            ]
            for row in one.rows
        ]
        parts.append(f"**{one.title}**, {one.base} [{one.tag}]")
        parts.append(table(head, rows))
        parts += one.notes
    sets = [
        [_TITLES[name], entry.data, f"{entry.rows} [{entry.tag}]"]
        for name, entry in known.sets.items()
    ]
    parts += ["**Sets**", table(["benchmark", "data", "rows"], sets)]
    return "\n\n".join(parts) + "\n"


def replace_published(document: str) -> str:
    """Put the tables between the two marks of a document.

    Raises ConfigError when the document does not have each mark once, in order.
    """
    head, start, rest = document.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end or START in rest or END in head + tail:
        raise ConfigError(f"the document needs the lines {START} and {END} once each, in order")
    return f"{head}{START}\n\n{render_published()}\n{END}{tail}"


def compare_with_paper(
    ours: Mapping[str, Mapping[str, float]],
    sets: Mapping[str, OurSet],
    *,
    base: str,
    table_id: str = "table2",
    remarks: Iterable[str] = (),
) -> str:
    """Give our figures beside the paper's as Markdown, and the sets that both are of.

    ours: percent, by kind of condition and then by benchmark (names of the catalogue)
    sets: by benchmark, for every one that `ours` has
    base: name of our base model
    remarks: what else keeps the figures apart, such as readers of answers

    Raises ConfigError for an unknown table.
    """
    paper = find_table(table_id)
    measured = [name for name in _TITLES if any(name in values for values in ours.values())]
    columns = [*paper.columns, *(name for name in measured if name not in paper.columns)]
    rows = [
        *_paired_rows(paper, ours, columns),
        *(
            [f"{kind} (not in the table)", *(_pair(values.get(name), None) for name in columns), ""]
            for kind, values in ours.items()
            if kind not in {row.kind for row in paper.rows}
        ),
    ]
    parts = [
        "# Beside the paper",
        (
            f"{paper.title}, {paper.base} [{paper.tag}: {published().tags[paper.tag]}]. Here: "
            f"{base}. Cells: here / paper, percent; – where there is no figure. Absolute figures of "
            "unlike bases do not compare; the order of the conditions does."
        ),
        "\n".join(f"- {remark}" for remark in remarks),
        table(["paper's row", *(_TITLES[name] for name in columns), "average"], rows),
        "Averages are of the benchmarks of the paper's column, and left out unless all are here.",
        "## Sets",
        table(
            ["benchmark", "rows here", "rows in the paper", "where they differ"],
            [_set_row(name, sets.get(name)) for name in columns],
        ),
        *paper.notes,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def compare_readings_with_paper(
    readers: Mapping[str, Any],
    sets: Mapping[str, OurSet],
    *,
    base: str,
    table_id: str = "table2",
    remarks: Iterable[str] = (),
) -> str:
    """Give what the reference's readers make of our answers beside the paper's figures.

    readers: by condition, as `compare_readers` gives; the last part of a task's name, as in
        "mine.arc_easy", tells the benchmark, and other tasks are left out
    sets, base, table_id, remarks: as of `compare_with_paper`
    """
    known = published().sets
    ours = {
        condition: {
            name: 100 * task["reference"]
            for full, task in found["tasks"].items()
            if (name := full.rpartition(".")[2]) in known
        }
        for condition, found in readers.items()
    }
    return compare_with_paper(
        ours,
        sets,
        base=base,
        table_id=table_id,
        remarks=("answers are read as the reference code of the paper reads them", *remarks),
    )


def _paired_rows(
    paper: PublishedTable, ours: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> list[list[str]]:
    rows = []
    name_of_all = max(paper.averages, key=lambda name: len(paper.averages[name]))
    over = paper.averages[name_of_all]
    for row in paper.rows:
        values = ours.get(row.kind or "", {})
        average = None
        if all(name in values for name in over):
            average = sum(values[name] for name in over) / len(over)
        rows.append(
            [
                f"{row.name} ({row.kind})" if row.kind in KINDS else row.name,
                *(_pair(values.get(name), row.values.get(name)) for name in columns),
                _pair(average, row.averages[name_of_all]),
            ]
        )
    return rows


def _pair(ours: float | None, theirs: float | None) -> str:
    return (
        f"{'–' if ours is None else f'{ours:.1f}'} / {'–' if theirs is None else f'{theirs:.1f}'}"
    )


def _set_row(name: str, ours: OurSet | None) -> list[str]:
    theirs = published().sets.get(name)
    rows = str(theirs.rows) if theirs is not None else "not in the paper"
    if ours is None:
        return [_TITLES[name], "–", rows, "not measured here"]
    if theirs is None:
        return [_TITLES[name], str(ours.rows), rows, ours.differs]
    differences = []
    if ours.rows != theirs.rows:
        differences.append(f"here {ours.data}, in the paper {theirs.data}")
    if ours.differs:
        differences.append(ours.differs)
    return [_TITLES[name], str(ours.rows), rows, "; ".join(differences) or "nothing known"]


def _percent(value: float | None, tag: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if tag == "R" else f"{value:.1f}"
