"""t2l merge: an adapter becomes part of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import Overwrite, check_output


def merge(
    adapter: Annotated[Path, typer.Argument(help="PEFT folder of the adapter.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the merged model.")],
    base: Annotated[
        str | None, typer.Option(help="Base model; by default the one the adapter names.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Merge an adapter into its base model.

    Example:

      t2l merge review -o review-model
    """
    check_output(output, overwrite=overwrite)
    from text_to_lora.files import write_folder
    from text_to_lora.lora.apply import merge as merge_weights
    from text_to_lora.lora.peft_format import load_adapter, read_adapter_config
    from text_to_lora.serving.base import load_base

    name = base or str(read_adapter_config(adapter).get("base_model_name_or_path") or "")
    model, tokenizer = load_base(name)
    merge_weights(model, load_adapter(adapter, base_config=model.config))
    with write_folder(output, overwrite=overwrite) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    typer.echo(f"{output}  {name} with {adapter} merged")
