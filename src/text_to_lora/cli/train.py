"""t2l train: a hypernetwork or the multi-task adapter from a recipe; the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from text_to_lora.cli.common import note
from text_to_lora.errors import ConfigError

app = typer.Typer(help="Train hypernetworks.", no_args_is_help=True, rich_markup_mode=None)


@app.command("sft")
def sft(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a YAML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew instead of resuming the run in OUTPUT.")
    ] = False,
) -> None:
    """Train by supervised fine-tuning through the frozen base model.

    An interrupted run is resumed from its last complete checkpoint when the command is repeated.
    Several GPUs: accelerate launch -m text_to_lora.cli train sft ...

    \b
    Examples:
      t2l train sft gemma-2-2b-it -o runs/gemma --set data.data_dir=tasks
      t2l train sft my.yaml -o runs/mine --set optimizer.lr=1e-4
    """
    training = _needs("text_to_lora.training.sft")
    config = _needs("text_to_lora.training.config").load_recipe(recipe, settings or [])
    folder = training.train_sft(config, output_dir=output, resume=not fresh, report=note)
    typer.echo(str(folder))


@app.command("embedded")
def embedded(
    data: Annotated[Path, typer.Option("--data", help="Folder of task collections.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")],
) -> None:
    """Make the embedded default: tokenizer, base, gate, hypernetwork, report, model card.

    Stages that are complete in OUTPUT are skipped.

    \b
    Example:
      t2l train embedded --data data -o runs/embedded
    """
    _needs("text_to_lora.training.embedded").build_all(data, output, report=note)


def _needs(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("text_to_lora"):
            raise
        raise ConfigError(
            f"training needs the package {error.name!r}; pip install 'text-to-lora[train,eval]'"
        ) from None
