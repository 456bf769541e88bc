"""t2l tasks check: one page on tasks, before a network is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text_to_lora.cli.common import (
    AsJson,
    Overwrite,
    Settings,
    check_file,
    echo_json,
    note,
    progress,
    silence_transformers,
)
from text_to_lora.errors import ConfigError, needs_extra
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from text_to_lora.tasks.checking.check import Measure
    from text_to_lora.tasks.task import Task
    from text_to_lora.training.config import RunConfig


def check(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Task folders, trees with splits.json, copies of Super-NaturalInstructions, "
            "Lots-of-LoRAs/NAME; those of --recipe are added."
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe whose sources, base and limits of tokens count.")
    ] = "embedded",
    settings: Settings = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Evaluation set that training must not repeat; may be repeated."),
    ] = None,
    drop_overlap: Annotated[
        Path | None, typer.Option(help="Task folder to write, without what --against has too.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Say what speaks against tasks before a network is trained on them.

    Lengths are counted in tokens of the recipe's base, with its chat template. Nothing of the base
    but its tokenizer is loaded.

    \b
    Examples:
      t2l tasks check mine
      t2l tasks check mine --recipe my.yaml --against held-out --html check.html
      t2l tasks check mine --against held-out --drop-overlap clean --json
    """
    from text_to_lora.files import write_text
    from text_to_lora.tasks.checking.check import check_tasks
    from text_to_lora.tasks.checking.held_out import drop_held_out
    from text_to_lora.tasks.checking.page import report_lines, report_page
    from text_to_lora.tasks.writing import write_tasks
    from text_to_lora.training.config import load_recipe

    if drop_overlap is not None:
        if not against:
            raise ConfigError("--drop-overlap needs --against with what must not be repeated")
        check_output(drop_overlap, overwrite=overwrite, sources=[*(sources or ()), *against])
    if html is not None:
        check_file(html)
    config = load_recipe(recipe, settings or [])
    with progress("reading tasks") as show:
        tasks = _read(sources or [], config)
        held_out = _read_all(against or [])
        report = check_tasks(tasks, _measure(config), held_out, show)
    if html is not None:
        write_text(html, report_page(report), overwrite=False)
        note(f"page in {str(html)!r}")
    if drop_overlap is not None:
        cleaned = drop_held_out(tasks, report.held_out)
        if not cleaned:
            raise ConfigError("no row is left without what --against has; nothing is written")
        write_tasks(cleaned, drop_overlap, overwrite=overwrite, notes={"without": against})
        rows = sum(len(task.examples) for task in cleaned)
        note(f"{len(cleaned)} of {len(tasks)} tasks with {rows:,} rows in {str(drop_overlap)!r}")
    if as_json:
        echo_json(report.to_dict())
    else:
        for line in report_lines(report):
            typer.echo(line)


def _read(sources: list[str], config: RunConfig) -> list[Task]:
    """The tasks of the named sources, and those of the recipe."""
    data, tasks = config.data, _read_all(sources)
    if data.data_dir or data.folders or data.sni or data.hub:
        with needs_extra("train"):
            from text_to_lora.training.split import load_tasks

        tasks += load_tasks(data)
    if not tasks:
        raise ConfigError("no tasks; name a task folder, or a recipe that has sources")
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two tasks are named {twice!r}; leave one out of the sources")
    return tasks


def _read_all(sources: list[str]) -> list[Task]:
    from text_to_lora.tasks.importing.sources import read_collection

    tasks: list[Task] = []
    for source in sources:
        read = read_collection(source)
        if read is None:
            raise ConfigError(
                f"{source!r} is no task folder and no collection of tasks; make one of a table with "
                "`t2l tasks import`"
            )
        tasks += read
    return tasks


def _measure(config: RunConfig) -> Measure:
    from text_to_lora.models.base import load_tokenizer
    from text_to_lora.tasks.checking.check import Measure

    silence_transformers()
    data = config.data
    return Measure(
        load_tokenizer(config.base.name, revision=config.base.revision),
        data.max_prompt_tokens,
        data.max_answer_tokens,
        data.max_description_tokens,
    )
