"""t2l tasks: data of any form becomes tasks with descriptions, which are checked before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from text_to_lora.cli.common import AsJson, Overwrite, cut, echo_json, note, progress
from text_to_lora.errors import ConfigError
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from text_to_lora.tasks.importing.build import Imported
    from text_to_lora.tasks.importing.columns import Columns
    from text_to_lora.tasks.task import Task

app = typer.Typer(
    help="Make, describe and check tasks.", no_args_is_help=True, rich_markup_mode=None
)

_NUM_SHOWN = 5  # rows of a preview

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Files (.csv, .tsv, .jsonl, .json, .parquet), task folders, a copy of "
        "Super-NaturalInstructions, or data sets by folder or OWNER/NAME."
    ),
]
InputColumn = Annotated[
    str | None,
    typer.Option(
        "--input",
        "--input-column",
        help="Column, or template such as '{title}: {text}'.  [default: input]",
    ),
]
OutputColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "--output-column",
        help="The same of the answer; may be repeated.  [default: output]",
    ),
]
Labels = Annotated[
    str | None, typer.Option(help="Names of labels: 0=no,1=yes, or no,yes for 0, 1.")
]
Separator = Annotated[
    str, typer.Option(help="What separates several accepted answers in one cell, such as '|'.")
]
TaskName = Annotated[
    str | None, typer.Option("--name", help="Of the task; default: the name of the file.")
]
TaskDescriptions = Annotated[
    list[str] | None, typer.Option("--description", help="Wording of the task; may be repeated.")
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="classification, exact_match, rougeL, final_number or code_execution; default: a guess."
    ),
]
Group = Annotated[
    str, typer.Option(help="Data set that the rows come from; default: the name of the file.")
]
TaskColumn = Annotated[
    str | None, typer.Option(help="Column with the name of the row's task, for tables of several.")
]
DescriptionColumn = Annotated[
    str | None, typer.Option(help="Column with a wording of the row's task, as in Alpaca's form.")
]
Templates = Annotated[
    Path | None, typer.Option(help="Templates of promptsource (YAML); each makes a task.")
]


@app.command("import")
def import_tasks(
    sources: Sources,
    output: Annotated[Path, typer.Option("--folder", "-o", help="Task folder to write.")],
    input_column: InputColumn = None,
    output_columns: OutputColumns = None,
    labels: Labels = None,
    separator: Separator = "",
    name: TaskName = None,
    descriptions: TaskDescriptions = None,
    metric: Metric = None,
    group: Group = "",
    license: Annotated[str, typer.Option(help="License of the rows.")] = "",
    task_column: TaskColumn = None,
    description_column: DescriptionColumn = None,
    templates: Templates = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a data set.")] = None,
    split: Annotated[str, typer.Option(help="Split of a data set.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a data set.")] = None,
    encoding: Annotated[str, typer.Option(help="Of CSV and TSV.")] = "utf-8",
    min_rows: Annotated[int, typer.Option(min=1, help="Leave out tasks with fewer rows.")] = 10,
    max_rows: Annotated[int, typer.Option(min=1, help="Most rows of a task.")] = 10_000,
    add: Annotated[bool, typer.Option("--add", help="Add to the tasks in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, show rows.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a task folder of tables, data sets and collections of tasks.

    Every file is a task of its own. Rows that cannot be used are left out and counted.

    \b
    Examples:
      t2l tasks import mails.csv -o mine --input text --output spam --labels no,yes --dry-run
      t2l tasks import pairs.jsonl -o mine --add --input "{premise} {hypothesis}" --output label
      t2l tasks import nyu-mll/glue --config sst2 -o sst2 --input sentence --output label
    """
    from text_to_lora.tasks.importing.build import Form, Imported
    from text_to_lora.tasks.importing.sources import Reading, import_source
    from text_to_lora.tasks.importing.templates import read_templates
    from text_to_lora.tasks.writing import write_tasks

    if name is not None and len(sources) > 1:
        raise ConfigError(f"--name is {name!r} for {len(sources)} sources; import them one by one")
    if not dry_run and not (add and output.exists()):
        check_output(output, overwrite=overwrite, sources=sources)
    columns = _make_columns(input_column, output_columns, labels, separator)
    wordings = [] if templates is None else read_templates(templates)
    reading = Reading(columns, encoding, config, split, revision, wordings)
    form: Any = Form  # checks the kind of metric when a task is made
    settings = form(
        tuple(descriptions or ()),
        metric, group, license, "", task_column, description_column, min_rows, max_rows,
    )  # fmt: skip
    result = Imported()
    with progress("reading") as show:
        for source in sources:
            show(f"reading {source}")
            result.add(import_source(source, reading, settings, name=name))
    if as_json:
        echo_json(_summary(result))
    else:
        _preview(result)
    if dry_run:
        note("nothing is written, because of --dry-run")
        return
    tasks = result.tasks
    if add and output.exists():
        tasks = _added(output, tasks)
    notes = {"sources": [Path(source).name for source in sources], "left_out": result.explain()}
    write_tasks(tasks, output, overwrite=overwrite or add, notes=notes)
    tasks_now = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
    note(f"{str(output)!r} has {tasks_now}; next: t2l tasks describe, t2l tasks check")


def _make_columns(
    input_column: str | None, output_columns: list[str] | None, labels: str | None, separator: str
) -> Columns | None:
    """The columns that are named; None where none is."""
    from text_to_lora.tasks.importing.columns import Columns, parse_labels

    if not (input_column or output_columns or labels or separator):
        return None
    return Columns(
        input_column or "input",
        tuple(output_columns or ("output",)),
        None if labels is None else parse_labels(labels),
        separator,
    )


def _added(folder: Path, tasks: list[Task]) -> list[Task]:
    """The tasks of a folder, followed by others."""
    from text_to_lora.tasks.folder import load_folder

    known = load_folder(folder)
    names = {task.name for task in known}
    for task in tasks:
        if task.name in names:
            raise ConfigError(
                f"{str(folder)!r} has a task {task.name!r} already; name the new one with --name"
            )
    return [*known, *tasks]


def _summary(result: Imported) -> dict[str, Any]:
    return {
        "rows": result.rows,
        "left_out": {why: {"rows": n, "first": at} for why, (n, at) in result.left_out.items()},
        "tasks": [
            {
                "id": task.name,
                "rows": len(task.examples),
                "metric": task.metric.kind,
                "labels": list(task.metric.labels),
                "group": task.group,
                "definition": task.definition,
                "first_rows": [
                    {"input": row.input, "outputs": list(row.outputs)}
                    for row in task.examples[:_NUM_SHOWN]
                ],
            }
            for task in result.tasks
        ],
    }


def _preview(result: Imported) -> None:
    for task in result.tasks[:20]:
        labels = f" ({cut(', '.join(task.metric.labels))})" if task.metric.labels else ""
        typer.echo(
            f"{task.name}  {len(task.examples):,} rows, {task.metric.kind}{labels}, group {task.group}"
        )
        typer.echo(f"  {cut(task.definition, 100)}")
        for row in task.examples[: _NUM_SHOWN if len(result.tasks) <= 5 else 1]:
            answers = " | ".join(repr(cut(answer, 40)) for answer in row.outputs)
            typer.echo(f"  {cut(row.input)!r} -> {answers}")
    if len(result.tasks) > 20:
        typer.echo(f"and {len(result.tasks) - 20} more tasks")
    for line in result.explain():
        typer.echo(line)
