"""t2l run: a description or an adapter, and inputs; base and adapted answers out."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError, T2LWarning


def run(
    description: Annotated[str | None, Argument(help="What the task is.")] = None,
    inputs: Annotated[
        list[str] | None, Option("--input", "-i", help="An input; may be repeated.")
    ] = None,
    input_file: Annotated[Path | None, Option(help="UTF-8 file, one input a line.")] = None,
    adapter: Annotated[
        str | None, Option(help="Folder of an adapter, instead of DESCRIPTION and --model.")
    ] = None,
    model: common.Model = "embedded",
    base: common.Base = None,
    strength: common.Strength = 1.0,
    max_new_tokens: Annotated[int, Option(min=1, help="Most tokens of an answer.")] = 32,
    device: common.Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Answer inputs with the base model, and with an adapter.

    The adapter is generated from the description, which is not in the prompt, or read from a
    folder that `t2l generate`, `t2l refine` or PEFT wrote. The effect is the mean divergence
    KL(adapted, base) over the tokens of the adapted answers, in nats. A warning says when the
    adapter hardly changes what the base says, and when the base does not read the left of a long
    input.

    \b
    Examples:
      t2l run "Answer in capitals" --input "the sun is warm" --input "hello"
      t2l run "Give the last word" --input-file lines.txt --json
      t2l run --adapter refund --input "The kettle leaks, I want my money back."
    """
    if (description is None) == (adapter is None):
        given = "neither is" if adapter is None else "both are"
        raise ConfigError(f"{given} given of DESCRIPTION and --adapter FOLDER; give one of them")
    if adapter is not None and model != "embedded":
        raise ConfigError(
            f"--model {model} generates adapters, and --adapter {adapter} names one that is there; "
            "give one of them"
        )
    if description is not None:
        common.gather([description], None, "description", "")
    texts = common.gather(inputs, input_file, "input", "--input-file")
    with common.progress("loading the adapter and the base model") as show:
        from text_to_lora.inference.answers import answer, count_dropped, effect

        if description is not None:
            t2l, language_model, tokenizer = common.load_model_and_base(model, base, device)
            show("loading the text encoder and generating the adapter")
            generated = t2l.generate([description], strength=strength)
            weights = generated.weights
            names = ("tokens", "tokens_read", "tokens_unknown")
            facts = {"description": description}
            facts |= {name: generated.provenance[0][name] for name in names}
        else:
            assert adapter is not None
            weights, language_model, tokenizer = common.load_adapter_and_base(adapter, base, device)
            weights, facts = weights.scale(strength), {"adapter": adapter}
        loaded = (language_model, tokenizer, texts)
        dropped = count_dropped(*loaded, max_new_tokens=max_new_tokens)
        show("the base answers")
        before = answer(*loaded, max_new_tokens=max_new_tokens)
        show("the adapted base answers")
        after = answer(*loaded, weights=weights, max_new_tokens=max_new_tokens)
        show("comparing")
        change = float(effect(*loaded, after, weights).mean())
    _check_effect(change, strength)
    if as_json:
        columns = ("input", "tokens_dropped", "base", "adapted")
        rows = zip(texts, dropped, before, after, strict=True)
        answers = [dict(zip(columns, row, strict=True)) for row in rows]
        common.echo_json({**facts, "effect_nats": change, "answers": answers})
        return
    for text, plain, adapted in zip(texts, before, after, strict=True):
        echo(f"input    {text}\nbase     {plain}\nadapted  {adapted}\n")
    echo(f"effect   {change:.3f} nats per answer token")


def _check_effect(change: float, strength: float) -> None:
    """Refuse an effect out of the range of numbers, and warn of a small one."""
    from text_to_lora.inference.answers import SMALL_EFFECT

    if not math.isfinite(change):
        raise ConfigError(
            f"the adapter's effect is {change}: strength {strength} takes the base's numbers out "
            "of range; lower --strength"
        )
    if change < SMALL_EFFECT:
        warnings.warn(
            f"the adapter hardly changes the base ({change:.4f} nats per answer token, "
            f"under {SMALL_EFFECT}); describe the task in other words, or raise --strength",
            T2LWarning,
            stacklevel=1,
        )
