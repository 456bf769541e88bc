"""t2l export: an adapter becomes the file of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from text_to_lora.cli import common
from text_to_lora.export import FORMATS, check_format, export_adapter
from text_to_lora.files import check_output


def export(
    adapter: common.Adapter,
    to: Annotated[str, Option(help=f"Format: {', '.join(FORMATS)}.")],
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            help="File to write for gguf, which is never replaced; folder for the others.",
        ),
    ],
    base: common.AdapterBase = None,
    engine_base: Annotated[
        str | None,
        Option(
            help="What FROM says in Ollama's Modelfile: a model's name there, or a GGUF file; "
            "default: its library's name."
        ),
    ] = None,
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Export an adapter for llama.cpp, Ollama or mlx-lm.

    Format peft writes what an adapter of mlx-lm becomes. Only the configuration of the base model is
    read, not its weights. What the engine cannot run is said before anything is written.

    \b
    Examples:
      t2l export review --to gguf -o review.gguf
      t2l export review --to mlx -o review-mlx
      t2l export review --to ollama -o review-ollama --engine-base smollm2:135m
    """
    check_format(to)
    check_output(output, overwrite=overwrite, sources=[adapter])
    with common.progress("reading the adapter") as show:
        weights, config, base_name, _ = common.read_adapter(adapter, base)
        show("writing")
        export_adapter(weights, output, config, to=to, overwrite=overwrite, engine_base=engine_base)
    if as_json:
        common.echo_json({"path": str(output), "format": to, "base": base_name, "adapter": adapter})
    else:
        echo(f"{output}  {adapter} as {to} for {base_name}")
