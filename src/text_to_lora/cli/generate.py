"""t2l generate: descriptions in, PEFT folders out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from text_to_lora.generate import Adapters


def generate(
    output: common.Output,
    descriptions: common.Descriptions = None,
    from_file: common.DescriptionFile = None,
    model: common.Model = "embedded",
    base: common.Base = None,
    strength: common.Strength = 1.0,
    blend: Annotated[
        str | None, Option(help="Blend into one adapter: 'mean', or shares such as 0.7,0.3.")
    ] = None,
    raw_scale: Annotated[
        bool, Option("--raw-scale", help="Keep alpha and rsLoRA instead of folding them in.")
    ] = False,
    min_similarity: Annotated[
        float | None,
        Option(
            help="Refuse, and write nothing, when a description's cosine with the nearest training "
            "description is lower.",
        ),
    ] = None,
    device: common.Device = "cpu",
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Generate LoRA adapters from task descriptions.

    One description gives one PEFT folder; several give numbered folders below OUTPUT. The base
    model is loaded only where the hypernetwork reads descriptions with it, as the embedded one
    does. Each line names the nearest description that the hypernetwork was trained on and the
    cosine of both embeddings: the lower it is, the less the adapter is to be relied on.

    \b
    Examples:
      t2l generate "Decide whether a review is positive or negative" -o review
      t2l generate "Answer in capitals" "Give the last word" -o two
      t2l generate "Answer in capitals" -o strong --strength 1.5
      t2l generate "Answer in French" "Be brief" -o both --blend 0.7,0.3
      t2l generate "Answer in capitals" -o capitals --min-similarity 0.4
      t2l generate --from-file tasks.txt -o many --model my-hypernet --json
    """
    texts = common.gather(descriptions, from_file, "description", "--from-file")
    check_output(output, overwrite=overwrite, sources=[model])
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        raise ConfigError(f"min-similarity is {min_similarity}; a cosine from -1 to 1 is needed")
    shares = None if blend is None else _read_shares(blend, len(texts))
    with common.progress("loading the hypernetwork") as show:
        t2l = common.load_generator(model, base, device)
        show("loading the text encoder and generating")
        adapters = t2l.generate(texts, strength=strength)
        if min_similarity is not None:
            _check_similarity(adapters, min_similarity, model)
        if shares is not None:
            adapters = adapters.blend(shares)
        show("writing")
        folders = adapters.save(output, scale_safe=not raw_scale, overwrite=overwrite)
    if not as_json:
        _show(adapters, folders, is_blend=blend is not None)
        return
    rank = adapters.weights.spec.rank
    entries = zip(folders, adapters.provenance, strict=True)
    common.echo_json([{"path": str(folder), "rank": rank, **entry} for folder, entry in entries])


def _read_shares(blend: str, count: int) -> list[float]:
    if blend == "mean":
        return [1 / count] * count
    try:
        shares = [float(share) for share in blend.split(",")]
    except ValueError:
        raise ConfigError(f"blend is {blend!r}; 'mean' or numbers with commas are needed") from None
    if not all(map(math.isfinite, shares)):
        raise ConfigError(f"blend is {blend!r}; finite shares are needed")
    if len(shares) != count:
        raise ConfigError(f"blend has {len(shares)} shares for {count} descriptions; give one each")
    return shares


def _check_similarity(adapters: Adapters, lowest: float, model: str) -> None:
    for text, nearest in zip(adapters.descriptions, adapters.nearest, strict=True):
        if nearest is None:
            raise ConfigError(
                f"the hypernetwork {model!r} stores no training descriptions to compare with; leave "
                "--min-similarity out, or use a hypernetwork trained by this version"
            )
        if nearest.cosine < lowest:
            raise ConfigError(
                f"the training description nearest to {common.cut(text)!r} has cosine "
                f"{nearest.cosine:.2f}, below {lowest:g}: {common.cut(nearest.text)!r}; nothing was "
                "written; say the task in other words, or lower --min-similarity"
            )


def _show(adapters: Adapters, folders: list[Path], *, is_blend: bool) -> None:
    spec = adapters.weights.spec
    for folder, text, nearest in zip(folders, adapters.descriptions, adapters.nearest, strict=True):
        echo(f"{folder}  rank {spec.rank}, base {spec.base.name}  {text}")
        if nearest is not None:
            echo(
                f"  nearest training description: cosine {nearest.cosine:.2f}, "
                f"{common.cut(nearest.text)!r}"
            )
    if not is_blend and None in adapters.nearest:
        echo("  nearest training description: unknown, this hypernetwork stores none")
