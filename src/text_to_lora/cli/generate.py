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
    check_strength,
    echo_json,
    gather,
    load_generator,
    progress,
    shorten,
)
from text_to_lora.errors import ConfigError
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from text_to_lora.generate import Adapters


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
    min_similarity: Annotated[
        float | None,
        typer.Option(
            help="Refuse, and write nothing, when a description's cosine with the nearest training "
            "description is lower.",
        ),
    ] = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Generate LoRA adapters from task descriptions.

    One description gives one PEFT folder; several give numbered folders below OUTPUT. The base
    model is loaded only where the hypernetwork reads descriptions with it, as the embedded one
    does. Each line names the nearest description that the hypernetwork
    was trained on and the cosine of both embeddings: the lower it is, the less the adapter is to be
    relied on.

    \b
    Examples:
      t2l generate "Decide whether a review is positive or negative" -o review
      t2l generate "Answer in capitals" "Give the last word" -o two
      t2l generate "Answer in capitals" -o strong --strength 1.5
      t2l generate "Answer in French" "Be brief" -o both --blend 0.7,0.3
      t2l generate "Answer in capitals" -o capitals --min-similarity 0.4
      t2l generate --from-file tasks.txt -o many --model my-hypernet --json
    """
    texts = gather(descriptions, from_file, "description", "--from-file")
    check_output(output, overwrite=overwrite, sources=[model])
    check_strength(strength)
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        raise ConfigError(f"min-similarity is {min_similarity}; a cosine from -1 to 1 is needed")
    shares = _shares(blend, len(texts))
    with progress("loading the hypernetwork") as show:
        t2l = load_generator(model, device)
        show("loading the text encoder and generating")
        adapters = t2l.generate(texts, strength=strength)
        if min_similarity is not None:
            _check_similarity(adapters, min_similarity, model)
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
    for folder, text, nearest in zip(folders, adapters.descriptions, adapters.nearest, strict=True):
        typer.echo(f"{folder}  rank {spec.rank}, base {spec.base.name}  {text}")
        if nearest is not None:
            typer.echo(
                f"  nearest training description: cosine {nearest.cosine:.2f}, "
                f"{shorten(nearest.text)!r}"
            )
    if blend is None and None in adapters.nearest:
        typer.echo("  nearest training description: unknown, this hypernetwork stores none")


def _check_similarity(adapters: Adapters, lowest: float, model: str) -> None:
    for text, nearest in zip(adapters.descriptions, adapters.nearest, strict=True):
        if nearest is None:
            raise ConfigError(
                f"the hypernetwork {model!r} stores no training descriptions to compare with; leave "
                "--min-similarity out, or use a hypernetwork trained by this version"
            )
        if nearest.cosine < lowest:
            raise ConfigError(
                f"the training description nearest to {shorten(text)!r} has cosine "
                f"{nearest.cosine:.2f}, below {lowest:g}: {shorten(nearest.text)!r}; nothing was "
                "written; say the task in other words, or lower --min-similarity"
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
