"""t2l inspect: what a folder holds, for which base, how large, where from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from text_to_lora.cli.common import AsJson, echo_json, progress


def inspect(
    path: Annotated[str, typer.Argument(help="Adapter or hypernetwork folder, or 'embedded'.")],
    as_json: AsJson = False,
) -> None:
    """Say what an adapter or a hypernetwork is, for which base, and where it comes from.

    Its weights are read, so that a broken folder is found.

    \b
    Examples:
      t2l inspect review
      t2l inspect embedded --json
    """
    with progress("reading"):
        from text_to_lora.inspection import describe
        from text_to_lora.models.find import EMBEDDED, find_hypernet

        facts = describe(find_hypernet(EMBEDDED) if path == EMBEDDED else path)
    if as_json:
        echo_json(facts)
        return
    rows = list(_rows(facts))
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        typer.echo(f"{key:{width}}  {value}")


def _rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Facts as lines; what stands in an object inside is named by its path."""
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{key}.")
        elif type(value) is int:
            yield prefix + key, f"{value:,}"
        elif isinstance(value, str):
            yield prefix + key, value
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)
