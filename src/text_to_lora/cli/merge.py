"""t2l merge: an adapter becomes part of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from text_to_lora.cli.common import (
    AsJson,
    Overwrite,
    echo_json,
    load_base_quietly,
    progress,
)
from text_to_lora.errors import ConfigError
from text_to_lora.files import check_output

Dtype = Literal["float32", "bfloat16", "float16"]


def merge(
    adapter: Annotated[
        str, typer.Argument(help="PEFT folder of the adapter, or OWNER/NAME of the hub.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the merged model.")],
    base: Annotated[
        str | None, typer.Option(help="Base model; by default the one the adapter names.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the merged weights; by default the base's own.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base model.

    The result is a model of its own, which needs neither PEFT nor this package.

    \b
    Examples:
      t2l merge review -o review-model
      t2l merge review -o review-model --base ./my-base --dtype float32
    """
    check_output(output, overwrite=overwrite, sources=[adapter, *([base] if base else [])])
    with progress("reading the adapter") as show:
        import torch

        from text_to_lora.files import write_folder
        from text_to_lora.lora.apply import merge as merge_weights
        from text_to_lora.lora.peft_config import read_adapter_config
        from text_to_lora.lora.peft_format import load_adapter
        from text_to_lora.models.base import load_base_config
        from text_to_lora.models.find import base_to_load, find_adapter

        folder = find_adapter(adapter)
        recorded = read_adapter_config(folder)
        revision = recorded.get("revision") if base is None else None
        name = base or base_to_load(str(recorded.get("base_model_name_or_path") or ""), revision)
        if not name:
            raise ConfigError(f"{adapter!r} does not say what its base is; name it with --base")
        config = load_base_config(name, revision=revision)
        weights = load_adapter(folder, base_config=config)
        show("loading the base model")
        chosen = getattr(torch, dtype) if dtype else config.dtype or torch.float32
        model, tokenizer = load_base_quietly(
            name, spec=weights.spec, revision=revision, dtype=chosen
        )
        show("merging and writing")
        merge_weights(model, weights)
        with write_folder(output, overwrite=overwrite) as temporary:
            model.save_pretrained(temporary)
            if model.config.model_type.endswith("_text_model"):  # known as a part of Mllama alone
                config.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    written = str(chosen).removeprefix("torch.")
    if as_json:
        echo_json({"path": str(output), "base": name, "adapter": adapter, "dtype": written})
        return
    typer.echo(f"{output}  {name} with {adapter} merged, {written}")
