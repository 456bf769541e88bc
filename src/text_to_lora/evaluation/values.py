"""Values of rows as tables: a line for each row, a column for each condition, a table for each measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from pandas import DataFrame, MultiIndex, Series  # type: ignore[import-untyped]

from text_to_lora.evaluation.measures import MEASURES
from text_to_lora.evaluation.samples import Sample
from text_to_lora.evaluation.stats import GroupBootstrap

ROW = ["task", "idx"]
"""Names of the index of every table: a row is a task and the number of an example in it."""

EVEN = 1e-9
"""Means of a task that differ by less are equal: sums of the same values, rounded apart."""

Tables = Mapping[str, DataFrame]
"""By measure: [rows, conditions]. NaN: the row has no value; infinity: one that is not finite."""


def tables_of(samples: Mapping[str, Sequence[Sample]]) -> Tables:
    """The value of every row; the mean where a condition has several samples of a row.

    samples: by condition, in whose order the columns stand
    """
    records = [
        (name, sample.task, sample.idx, *(measure.of(sample) for measure in MEASURES.values()))
        for name, members in samples.items()
        for sample in members
    ]
    frame = DataFrame.from_records(records, columns=["condition", *ROW, *MEASURES])
    frame[list(MEASURES)] = frame[list(MEASURES)].astype(float)
    frame = frame.sort_values(list(frame.columns))  # sums do not depend on the order of samples
    means = frame.groupby(["condition", *ROW])[list(MEASURES)].mean().unstack("condition")
    return {measure: means[measure][list(samples)] for measure in MEASURES}


def tables_of_report(report: Mapping[str, Any]) -> Tables:
    """The means of a report's tasks, each task as one row with idx 0."""
    tasks = report["tasks"]
    index = MultiIndex.from_tuples([(task, 0) for task in tasks], names=ROW)
    tables = {}
    for measure in MEASURES:
        columns = {
            name: [facts["conditions"][name][measure] for facts in tasks.values()]
            for name in report["conditions"]
        }
        tables[measure] = DataFrame(columns, index=index).astype(float)
    return tables


def finite(values: Series) -> Series:
    """The values that are finite numbers."""
    return values[numpy.isfinite(values)]


def finite_rows(table: DataFrame) -> DataFrame:
    """The rows in which every value is a finite number."""
    return table[numpy.isfinite(table).all(axis=1)]


def task_means(values: Any) -> Any:
    """Mean over the rows of each task whose value is finite; NaN where a task has none.

    values: of one condition, or a table; gives [tasks] or [tasks, conditions]
    """
    return values.where(numpy.isfinite(values)).groupby("task").mean()


def compare_columns(
    values: Series, than: Series, measure: str, bootstrap: GroupBootstrap
) -> dict[str, Any] | None:
    """Paired difference of one condition minus another, with its interval, as JSON values.

    tasks_better: tasks where the first is better: a lower NLL, more of anything else
    tasks_equal: tasks where the means are equal
    rows: rows that have a finite value under both; rows_left_out: others that both have

    None where no row has a finite value under both.
    """
    differences = finite(values - than)
    if differences.empty:
        return None
    means = task_means(differences)
    interval = bootstrap.mean(means)
    return {
        **interval.to_dict(),
        "clear_of_zero": interval.clear_of_zero,
        "tasks": len(means),
        "tasks_better": int((MEASURES[measure].sign * means > EVEN).sum()),
        "tasks_equal": int((means.abs() <= EVEN).sum()),
        "rows": len(differences),
        "rows_left_out": int((values.notna() & than.notna()).sum()) - len(differences),
    }


def mean_of(values: Series, bootstrap: GroupBootstrap) -> dict[str, float | None] | None:
    """Mean over groups with its interval, as JSON values; None where no row has a finite value."""
    means = task_means(values).dropna()
    return None if means.empty else bootstrap.mean(means).to_dict()
