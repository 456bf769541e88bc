"""All verbs in one typer application."""

from __future__ import annotations

from typing import Annotated

import typer

import text_to_lora
from text_to_lora.cli import (
    benchmarks,
    check,
    compare,
    compress,
    convert,
    cost,
    demo,
    describe,
    evaluate,
    export,
    generate,
    harm,
    inspect,
    library,
    maps,
    merge,
    models,
    refine,
    run,
    tasks,
    train,
)

app = typer.Typer(
    name="t2l",
    help=(
        "Turn a task description into a LoRA adapter for a frozen language model.\n\n"
        "\b\n"
        "Example:\n"
        '  t2l run "Answer in capitals" --input "the sun is warm"\n'
        '  t2l generate "Answer in capitals" -o capitals'
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"t2l {text_to_lora.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command("generate")(generate.generate)
app.command("refine")(refine.refine)
app.command("run")(run.run)
app.command("inspect")(inspect.inspect)
app.command("convert")(convert.convert)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.command("compress")(compress.compress)
app.command("cost")(cost.cost)
app.command("map")(maps.draw_map)
app.command("neighbours")(maps.neighbours)
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models")
tasks.app.command("describe")(describe.describe)
tasks.app.command("check")(check.check)
app.add_typer(tasks.app, name="tasks")
app.add_typer(train.app, name="train")
app.add_typer(library.app, name="library")
evaluate.app.command("harm")(harm.harm)
evaluate.app.command("benchmarks")(benchmarks.benchmarks)
evaluate.app.command("compare")(compare.compare)
evaluate.app.command("report")(compare.report)
app.add_typer(evaluate.app, name="eval")
