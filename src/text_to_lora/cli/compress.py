"""t2l compress: a library of adapters becomes one hypernetwork."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from text_to_lora.choices import HeadName
from text_to_lora.cli import common
from text_to_lora.errors import needs_extra
from text_to_lora.files import check_output


def compress(
    library: Annotated[Path, Argument(help="Folder of the library.")],
    output: common.Output,
    conditioning: Annotated[
        Literal["text", "one-hot", "learned"] | None,
        Option(
            help="What asks for an adapter: a description, or its task's name (one-hot, learned); "
            "default: text where every task has a description."
        ),
    ] = None,
    head: Annotated[HeadName, Option(help="L, M or S: large to small.")] = "joint",
    steps: Annotated[
        int | None, Option(min=1, help="Optimiser steps; default: what fits the library.")
    ] = None,
    settings: common.Settings = None,
    data: Annotated[
        Path | None, Option(help="The tasks, to score answers before and after.")
    ] = None,
    score_tasks: Annotated[int, Option(min=1, help="Most tasks scored.")] = 16,
    base: common.Base = None,
    skip_bad: common.SkipBad = False,
    fresh: common.Fresh = False,
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Compress a library of adapters into one hypernetwork.

    Says how many adapters it stands for, bytes before and after, their ratio and the error, and with
    --data the answer NLL of the base, of the library's adapters and of the generated ones. An
    interrupted run in OUTPUT.run is resumed when the command is repeated. With --set tokens.read=true
    the hypernetwork reads the base model's states of a description as well.

    \b
    Examples:
      t2l compress library -o packed
      t2l compress library -o packed --head shared --conditioning one-hot --data tasks
      t2l compress library -o packed --steps 20000 --set hypernet.head_in_size=512
    """
    check_output(output, overwrite=overwrite, sources=[library])
    with needs_extra("train,eval"), common.progress("reading the library"):
        from text_to_lora.library.library import load_library
        from text_to_lora.training import compression
        from text_to_lora.training.config import set_keys
        from text_to_lora.training.reconstruction_config import ReconstructionConfig

        adapters = load_library(library, skip_bad=skip_bad)
        tasks = data and compression.choose_tasks(adapters, data, count=score_tasks)
    sections = compression.fit_settings(adapters, conditioning=conditioning, head=head, steps=steps)
    set_keys(sections, settings or [])
    config = ReconstructionConfig.from_dict(sections)
    loaded = None
    if config.tokens.read:
        with common.progress("loading the base model"):
            loaded = common.load_base_quietly(base or config.data.base, spec=adapters.spec)
    result = compression.compress(
        adapters,
        library,
        config,
        output=output,
        overwrite=overwrite,
        resume=not fresh,
        report=common.note,
        base=loaded,
    )
    scores = None
    if tasks:
        with common.progress("scoring"):
            loaded = loaded or common.load_base_quietly(base, spec=adapters.spec)
            scores = asdict(compression.score_compression(adapters, output, tasks, *loaded))
    facts = {
        "path": str(output),
        "conditioning": config.conditioning.kind,
        "head": config.hypernet.head,
        **result.to_dict(),
        "scores": scores,
    }
    if as_json:
        common.echo_json(facts)
    else:
        common.echo_facts(_rows(facts))


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of what is printed."""
    yield "hypernet", f"{facts['path']}  {facts['head']}, asked by {facts['conditioning']}"
    yield "adapters", f"{facts['adapters']:,}"
    yield "parameters", f"{facts['parameters']:,}"
    yield "bytes", f"{facts['bytes_before']:,} before, {facts['bytes_after']:,} after"
    yield "ratio", f"{facts['ratio']:.2f}"
    yield (
        "error",
        f"{facts['factor_l1']:.3g} mean |error| of A and B, {facts['delta_error']:.3g} relative in ΔW",
    )
    scores = facts["scores"]
    if scores is None:
        yield "answer NLL", "not scored; give the tasks with --data DIR"
    else:
        yield (
            "answer NLL",
            f"{scores['base']:.3f} base, {scores['before']:.3f} before, {scores['after']:.3f} after "
            f"(nats a token, {scores['rows']} rows of {scores['tasks']} tasks)",
        )
