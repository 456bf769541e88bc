"""t2l models: which hypernetworks are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import AsJson, echo_json
from text_to_lora.errors import ConfigError, T2LError


def models(
    folder: Annotated[
        Path, typer.Argument(help="Look for hypernetwork folders below this one too.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the embedded hypernetwork and those in folders below FOLDER.

    Example:

      t2l models runs
    """
    from text_to_lora.cli.inspect import describe
    from text_to_lora.serving.sources import find_hypernet

    found: list[dict[str, object]] = []
    try:
        found.append({**describe(find_hypernet("embedded")), "name": "embedded"})
    except ConfigError as error:
        found.append({"name": "embedded", "missing": str(error)})
    for file in sorted({*folder.glob("*/config.json"), *folder.glob("*/*/config.json")}):
        try:
            entry = describe(file.parent)
        except T2LError:
            continue
        if entry["kind"] == "hypernetwork":
            found.append({**entry, "name": str(file.parent)})
    if as_json:
        echo_json(found)
        return
    for item in found:
        if "missing" in item:
            typer.echo(f"{item['name']}  not installed: {item['missing']}")
        else:
            typer.echo(
                f"{item['name']}  for {item['base']}, head {item['head']}, rank {item['rank']}, "
                f"{item['parameters']:,} parameters"
            )
