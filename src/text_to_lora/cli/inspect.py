"""t2l inspect: what a folder holds, for which base, how large, where from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from text_to_lora.cli.common import AsJson, echo_json


def inspect(
    path: Annotated[str, typer.Argument(help="Adapter or hypernetwork folder, or 'embedded'.")],
    as_json: AsJson = False,
) -> None:
    """Say what an adapter or a hypernetwork is.

    Examples:

      t2l inspect review

      t2l inspect embedded --json
    """
    from text_to_lora.serving.describe import describe
    from text_to_lora.serving.sources import EMBEDDED, find_hypernet

    facts = describe(find_hypernet(EMBEDDED) if path == EMBEDDED else path)
    if as_json:
        echo_json(facts)
        return
    for key, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if type(value) is int:
            shown = f"{value:,}"
        typer.echo(f"{key:18}  {shown}")
