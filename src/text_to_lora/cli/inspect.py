"""t2l inspect: what a folder holds, for which base, how large, where from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from typer import Argument

from text_to_lora.cli import common


def inspect(
    path: Annotated[str, Argument(help="Adapter or hypernetwork folder, or 'embedded'.")],
    as_json: common.AsJson = False,
) -> None:
    """Say what an adapter or a hypernetwork is, for which base, and where it comes from.

    Its weights are read, so that a truncated file or a NaN is reported.

    \b
    Examples:
      t2l inspect review
      t2l inspect embedded --json
    """
    with common.progress("reading"):
        from text_to_lora.inspection import describe
        from text_to_lora.models.find import EMBEDDED, find_hypernet

        facts = describe(find_hypernet(EMBEDDED) if path == EMBEDDED else path)
    if as_json:
        common.echo_json(facts)
    else:
        common.echo_facts(_rows(facts))


def _rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of what is printed; a value inside an object is named by its path."""
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{key}.")
        elif type(value) is int:
            yield prefix + key, f"{value:,}"
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + key, text
