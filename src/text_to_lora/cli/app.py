"""All verbs in one typer application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import text_to_lora
from text_to_lora.cli import (
    benchmarks,
    check,
    compress,
    convert,
    cost,
    demo,
    describe,
    evaluate,
    export,
    generate,
    inspect,
    library,
    maps,
    merge,
    models,
    refine,
    run,
    serve,
    tasks,
    train,
    ui,
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_VERBS: dict[typer.Typer, list[Callable[..., None]]] = {
    app: [
        generate.generate,
        refine.refine,
        run.run,
        serve.serve,
        ui.ui,
        inspect.inspect,
        convert.convert,
        merge.merge,
        export.export,
        compress.compress,
        cost.cost,
        maps.neighbours,
        demo.demo,
    ],
    tasks.app: [describe.describe, check.check],
    evaluate.app: [benchmarks.benchmarks],
}
for group, verbs in _VERBS.items():
    for verb in verbs:
        group.command()(verb)
app.command("map")(maps.draw_map)
app.add_typer(models.app, name="models")
app.add_typer(tasks.app, name="tasks")
app.add_typer(train.app, name="train")
app.add_typer(library.app, name="library")
app.add_typer(evaluate.app, name="eval")
