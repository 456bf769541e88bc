"""t2l eval compare, t2l eval report: two reports against each other; a report made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import check_file
from text_to_lora.errors import needs_extra


def compare(
    a: Annotated[Path, typer.Argument(help="report.json of an evaluation, or its folder.")],
    b: Annotated[Path, typer.Argument(help="That of another; changes are B minus A.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file of all figures.")
    ] = None,
) -> None:
    """Say what changed from report A to report B, with paired intervals.

    Rows are paired where the samples lie beside both reports, tasks otherwise.

    \b
    Example:
      t2l eval compare before/report.json after/report.json -o changes.json
    """
    if output is not None:
        check_file(output)
    with needs_extra("eval", "this"):
        from text_to_lora.evaluation.compare import compare_reports
        from text_to_lora.evaluation.tables import render_comparison
        from text_to_lora.files import write_json

        comparison = compare_reports(a, b)
    if output is not None:
        write_json(output, comparison, overwrite=False)
    typer.echo(render_comparison(comparison), nl=False)


def report(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with run.json, as `t2l eval suite` leaves it."),
    ],
) -> None:
    """Make the tables and plots of an evaluation anew from its samples; no model is needed.

    \b
    Example:
      t2l eval report results
    """
    with needs_extra("eval", "this"):
        from text_to_lora.evaluation.report import build_report

        build_report(folder)
    typer.echo((folder / "report.md").read_text(encoding="utf-8"), nl=False)
