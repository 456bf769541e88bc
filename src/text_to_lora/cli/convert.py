"""t2l convert: a checkpoint of the reference implementation becomes a folder of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from text_to_lora.cli import common
from text_to_lora.files import check_output


def convert(
    source: Annotated[Path, Argument(help="Folder with hypermod.pt and args.yaml.")],
    output: common.Output,
    base: Annotated[
        str | None,
        Option(
            help="Base model, whose config.json gives the shapes: a folder or OWNER/NAME; "
            "default: what args.yaml names, beside it or on the hub."
        ),
    ] = None,
    module_order: Annotated[
        str | None,
        Option(help="Target modules in the order of training, with commas; default: sorted."),
    ] = None,
    overwrite: common.Overwrite = False,
) -> None:
    """Convert a hypernetwork of the reference implementation, of any of its three architectures.

    The reference numbers its target modules in the order of a Python set, which differs between
    processes; sorted order is assumed, and --module-order names another.

    \b
    Example:
      t2l convert trained_t2l/mistral_7b_t2l -o mistral-t2l --base mistralai/Mistral-7B-Instruct-v0.2
    """
    check_output(output, overwrite=overwrite, sources=[source])
    from text_to_lora.hypernet.official import convert as convert_official

    order = [name.strip() for name in module_order.split(",")] if module_order else None
    convert_official(source, output, base=base, module_order=order, overwrite=overwrite)
    echo(f"{output}  converted from {source}")
