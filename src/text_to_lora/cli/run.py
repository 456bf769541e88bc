"""t2l run: a description and inputs in, base and adapted answers out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import AsJson, Device, Model, check_device, echo_json, gather
from text_to_lora.errors import T2LWarning


def run(
    description: Annotated[str, typer.Argument(help="What the task is.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="An input; may be repeated.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", help="UTF-8 file, one input a line.")
    ] = None,
    model: Model = "embedded",
    base: Annotated[
        str | None, typer.Option(help="Base model; by default the one the hypernetwork is for.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Factor of the adapter's effect.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer inputs with the base model, and with the adapter of a description.

    Warns when the adapter hardly changes what the base says.

    Example:

      t2l run "Answer in capitals" --input "the sun is warm" --input "good morning"
    """
    texts = gather(inputs, input_file, "input", "--input-file")
    gather([description], None, "description", "")
    from text_to_lora.serving.answers import SMALL_EFFECT, answer, effect
    from text_to_lora.serving.base import load_base
    from text_to_lora.serving.generator import TextToLora

    t2l = TextToLora.from_pretrained(model, device=check_device(device))
    weights = t2l.generate([description], strength=strength).weights
    name = base or t2l.spec.base.name
    language_model, tokenizer = load_base(name, spec=t2l.spec, device=device)
    limit = max_new_tokens
    plain = answer(language_model, tokenizer, texts, max_new_tokens=limit)
    moved = answer(language_model, tokenizer, texts, weights=weights, max_new_tokens=limit)
    change = float(effect(language_model, tokenizer, texts, moved, weights).mean())
    if change < SMALL_EFFECT:
        warnings.warn(
            f"the adapter hardly changes the base ({change:.4f} nats per answer token, "
            f"under {SMALL_EFFECT}); say the task in other words, or raise --strength",
            T2LWarning,
            stacklevel=1,
        )
    rows = [
        {"input": text, "base": before, "adapted": after}
        for text, before, after in zip(texts, plain, moved, strict=True)
    ]
    if as_json:
        echo_json({"description": description, "effect_nats": change, "answers": rows})
        return
    for row in rows:
        typer.echo(f"input    {row['input']}\nbase     {row['base']}\nadapted  {row['adapted']}\n")
    typer.echo(f"effect   {change:.3f} nats per answer token")
