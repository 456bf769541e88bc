"""t2l merge: an adapter becomes part of its base."""

from __future__ import annotations

from typing import Annotated

from typer import Option, echo

from text_to_lora.cli import common
from text_to_lora.files import check_output, write_folder


def merge(
    adapter: common.Adapter,
    output: common.Output,
    base: common.AdapterBase = None,
    dtype: Annotated[
        common.Dtype | None, Option(help="Of the merged weights; default: the base's own.")
    ] = None,
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Merge an adapter into its base model.

    The result is a model of its own, which needs neither PEFT nor this package. The sum of weights
    is taken in float32.

    \b
    Examples:
      t2l merge review -o review-model
      t2l merge review -o review-model --base ./my-base --dtype float32
    """
    check_output(output, overwrite=overwrite, sources=[adapter, *([base] if base else [])])
    with common.progress("reading the adapter") as show:
        import torch

        from text_to_lora.lora.apply import merge as merge_weights
        from text_to_lora.models.rotary import repeat_rotary_base

        weights, config, name, revision = common.read_adapter(adapter, base)
        show("loading the base model")
        chosen = getattr(torch, dtype) if dtype else config.dtype or torch.float32
        model, tokenizer = common.load_base_quietly(
            name, spec=weights.spec, revision=revision, dtype=chosen
        )
        show("merging and writing")
        merge_weights(model, weights)
        with write_folder(output, overwrite=overwrite) as temporary:
            model.save_pretrained(temporary)
            if model.config.model_type.endswith("_text_model"):  # known as a part of Mllama alone
                config.save_pretrained(temporary)
            repeat_rotary_base(temporary)
            tokenizer.save_pretrained(temporary)
    written = str(chosen).removeprefix("torch.")
    if as_json:
        common.echo_json({"path": str(output), "base": name, "adapter": adapter, "dtype": written})
    else:
        echo(f"{output}  {name} with {adapter} merged, {written}")
