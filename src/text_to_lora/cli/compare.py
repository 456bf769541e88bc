"""t2l eval compare, t2l eval report: two reports against each other; a report made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import check_file
from text_to_lora.errors import ConfigError


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
    with _needs_eval():
        from text_to_lora.evaluation.compare import compare_reports
        from text_to_lora.evaluation.tables import render_comparison
        from text_to_lora.files import write_json

        comparison = compare_reports(a, b)
    if output is not None:
        write_json(output, comparison, overwrite=False)
    typer.echo(render_comparison(comparison), nl=False)


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `t2l eval suite`, `benchmarks` or `obedience`.")
    ],
) -> None:
    """Make the tables and plots of an evaluation anew from its samples; no model is needed.

    \b
    Example:
      t2l eval report results
    """
    with _needs_eval():
        from text_to_lora.evaluation.obedience import build_obedience, is_obedience
        from text_to_lora.evaluation.report import build_report

        pages = []
        if is_obedience(folder):
            build_obedience(folder)
            pages.append(_read(folder / "obedience.md"))
        if not pages or (folder / "run.json").exists():
            build_report(folder)
            pages.append(_read(folder / "report.md"))
    typer.echo("\n".join(pages), nl=False)


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@contextmanager
def _needs_eval() -> Iterator[None]:
    """Turn a missing package of evaluation into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("text_to_lora"):
            raise
        raise ConfigError(
            f"this needs the package {error.name!r}; pip install 'text-to-lora[eval]'"
        ) from None
