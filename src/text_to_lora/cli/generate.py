"""t2l generate: descriptions in, PEFT folders out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text_to_lora.cli.common import (
    AsJson,
    Device,
    Model,
    Overwrite,
    Strength,
    check_device,
    check_strength,
    echo_json,
    gather,
    progress,
)
from text_to_lora.errors import ConfigError
from text_to_lora.outputs import check_output

if TYPE_CHECKING:
    from text_to_lora.serving.generator import Adapters


def generate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    descriptions: Annotated[
        list[str] | None, typer.Argument(help="Task descriptions, one adapter each.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from-file", help="UTF-8 file, one description a line.")
    ] = None,
    model: Model = "embedded",
    strength: Strength = 1.0,
    blend: Annotated[
        str | None,
        typer.Option(help="Blend into one adapter: 'mean', or shares such as 0.7,0.3."),
    ] = None,
    raw_scale: Annotated[
        bool, typer.Option("--raw-scale", help="Keep alpha and rsLoRA instead of folding them in.")
    ] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(help="Refuse, and write nothing, when a description's confidence is lower."),
    ] = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Generate LoRA adapters from task descriptions.

    One description gives one PEFT folder; several give numbered folders below OUTPUT. The base
    model's weights are never loaded. Confidence is the probability that the adapter lowers the
    answer NLL on the task described, where the hypernetwork was calibrated.

    \b
    Examples:
      t2l generate "Decide whether a review is positive or negative" -o review
      t2l generate "Answer in capitals" "Give the last word" -o two
      t2l generate "Answer in capitals" -o strong --strength 1.5
      t2l generate "Answer in French" "Be brief" -o both --blend 0.7,0.3
      t2l generate "Answer in capitals" -o sure --min-confidence 0.5
      t2l generate --from-file tasks.txt -o many --model my-hypernet --json
    """
    texts = gather(descriptions, from_file, "description", "--from-file")
    check_output(output, overwrite=overwrite, sources=[model])
    check_strength(strength)
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(f"min-confidence is {min_confidence}; a number from 0 to 1 is needed")
    shares = _shares(blend, len(texts))
    with progress("loading the hypernetwork") as show:
        from text_to_lora.hypernet.confidence import MEANING
        from text_to_lora.serving.generator import TextToLora

        t2l = TextToLora.from_pretrained(model, device=check_device(device))
        if min_confidence is not None and t2l.calibration is None:
            raise ConfigError(
                f"the hypernetwork {model!r} has no calibration of confidence to refuse by; leave "
                "--min-confidence out, or fit one with `t2l eval confidence`"
            )
        show("loading the text encoder and generating")
        adapters = t2l.generate(texts, strength=strength)
        if min_confidence is not None:
            _check_confidence(adapters, min_confidence)
        if blend is not None:
            adapters = adapters.blend(shares)
        show("writing")
        folders = adapters.save(output, scale_safe=not raw_scale, overwrite=overwrite)
    spec = adapters.weights.spec
    if as_json:
        echo_json(
            [
                {"path": str(folder), "rank": spec.rank, **entry}
                for folder, entry in zip(folders, adapters.provenance, strict=True)
            ]
        )
        return
    for folder, text, sure in zip(folders, adapters.descriptions, adapters.confidence, strict=True):
        typer.echo(f"{folder}  rank {spec.rank}, base {spec.base.name}  {text}")
        if sure is not None:
            typer.echo(f"  confidence {sure:.2f}: {MEANING}")
    if t2l.calibration is None:
        typer.echo("  confidence unknown: this hypernetwork was not calibrated")


def _check_confidence(adapters: Adapters, lowest: float) -> None:
    for text, sure in zip(adapters.descriptions, adapters.confidence, strict=True):
        if sure is not None and sure < lowest:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise ConfigError(
                f"confidence {sure:.2f} of {shown!r} is below {lowest:g}; nothing was written; say "
                "the task in other words, or lower --min-confidence"
            )


def _shares(blend: str | None, count: int) -> list[float] | None:
    if blend is None or blend == "mean":
        return None
    try:
        shares = [float(share) for share in blend.split(",")]
    except ValueError:
        raise ConfigError(f"blend is {blend!r}; 'mean' or numbers with commas are needed") from None
    if not all(map(math.isfinite, shares)):
        raise ConfigError(f"blend is {blend!r}; finite shares are needed")
    if len(shares) != count:
        raise ConfigError(f"blend has {len(shares)} shares for {count} descriptions; give one each")
    return shares
