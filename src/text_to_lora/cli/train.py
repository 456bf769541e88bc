"""t2l train: hypernetworks, libraries and multi-task adapters by recipes."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option, Typer, echo

from text_to_lora.cli import common
from text_to_lora.errors import needs_extra

app = Typer(help="Train hypernetworks and adapters.", no_args_is_help=True, rich_markup_mode=None)

Recipe = Annotated[str, Argument(help="Name of a recipe, or a YAML file.")]


@app.command("sft")
def sft(
    recipe: Recipe,
    output: common.Output,
    settings: common.Settings = None,
    fresh: common.Fresh = False,
) -> None:
    """Train by supervised fine-tuning through the frozen base model.

    With hypernet.kind=static one multi-task adapter is trained in place of a hypernetwork. An
    interrupted run is resumed from its last complete checkpoint when the command is repeated.
    Several GPUs: accelerate launch -m text_to_lora.cli train sft ...

    \b
    Examples:
      t2l train sft gemma-2-2b-it -o runs/gemma --set data.data_dir=tasks
      t2l train sft my.yaml -o runs/mine --set optimizer.lr=1e-4
    """
    with needs_extra("train,eval"):
        from text_to_lora.training.config import load_recipe
        from text_to_lora.training.sft import train_sft
    config = load_recipe(recipe, settings or [])
    echo(str(train_sft(config, output_dir=output, resume=not fresh, report=common.note)))


@app.command("adapters")
def adapters(
    recipe: Recipe,
    output: common.Output,
    settings: common.Settings = None,
    multi_task: Annotated[
        bool, Option("--multi-task", help="Train one adapter on the rows of all tasks.")
    ] = False,
    processes: Annotated[
        int, Option(min=1, help="Groups of tasks trained at the same time, on a CPU.")
    ] = 1,
    fresh: common.Fresh = False,
) -> None:
    """Train an adapter for every task, all together on one frozen base: a library.

    An interrupted run goes on when the command is repeated; finished tasks are not trained again.

    \b
    Examples:
      t2l train adapters embedded-library -o runs/library --set data.data_dir=tasks --processes 2
      t2l train adapters embedded-library -o runs/multitask --set data.data_dir=tasks --multi-task
    """
    with needs_extra("train,eval"):
        from text_to_lora.training.adapters import LibraryConfig, train_adapters
        from text_to_lora.training.config import load_recipe
    result = train_adapters(
        load_recipe(recipe, settings or [], kind=LibraryConfig),
        output_dir=output,
        multitask=multi_task,
        resume=not fresh,
        processes=processes,
        report=common.note,
    )
    echo(str(result))


@app.command("reconstruct")
def reconstruct(
    recipe: Recipe,
    output: common.Output,
    settings: common.Settings = None,
    fresh: common.Fresh = False,
) -> None:
    """Train a hypernetwork to reconstruct the adapters of a library.

    A base model is loaded only to read descriptions, where tokens.read is true.
    An interrupted run is resumed from its last complete checkpoint when the command is repeated.
    `t2l compress` does the same with settings that fit the library.

    \b
    Examples:
      t2l train reconstruct reconstruct-embedded -o runs/text --set data.library=library
      t2l train reconstruct reconstruct-onehot -o runs/onehot --set data.library=library
    """
    with needs_extra("train,eval"):
        from text_to_lora.training.config import load_recipe
        from text_to_lora.training.reconstruction import train_reconstruction
        from text_to_lora.training.reconstruction_config import ReconstructionConfig
    config = load_recipe(recipe, settings or [], kind=ReconstructionConfig)
    echo(str(train_reconstruction(config, output_dir=output, resume=not fresh, report=common.note)))
