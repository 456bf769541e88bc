"""t2l export: an adapter becomes the file of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError
from text_to_lora.export import FORMATS, check_format, export_adapter
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from text_to_lora.lora.weights import LoraWeights


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
        weights, config, base_name = _read_adapter(adapter, base)
        show("writing")
        export_adapter(weights, output, config, to=to, overwrite=overwrite, engine_base=engine_base)
    if as_json:
        common.echo_json({"path": str(output), "format": to, "base": base_name, "adapter": adapter})
    else:
        echo(f"{output}  {adapter} as {to} for {base_name}")


def _read_adapter(adapter: str, base: str | None) -> tuple[LoraWeights, PreTrainedConfig, str]:
    """The adapter of a folder, the configuration of its base, and the name of its base."""
    from text_to_lora.export.mlx import is_mlx_folder, load_mlx_adapter, read_mlx_config
    from text_to_lora.lora.peft_config import CONFIG_FILE, read_adapter_config
    from text_to_lora.lora.peft_format import load_adapter
    from text_to_lora.models.base import load_base_config
    from text_to_lora.models.find import find_adapter

    folder = find_adapter(adapter)
    if not (folder / CONFIG_FILE).is_file() and (
        nested := [str(file.parent) for file in sorted(folder.glob(f"*/{CONFIG_FILE}"))]
    ):
        raise ConfigError(f"{adapter!r} holds {len(nested)} adapters; name one, as {nested[0]!r}")
    is_mlx = is_mlx_folder(folder)
    config = (
        {"base_model_name_or_path": read_mlx_config(folder).get("model")}
        if is_mlx
        else read_adapter_config(folder)
    )
    name, revision = common.name_base(adapter, config, base)
    base_config = load_base_config(name, revision=revision)
    if is_mlx:
        return load_mlx_adapter(folder, base_config), base_config, name
    return load_adapter(folder, base_config=base_config), base_config, name
