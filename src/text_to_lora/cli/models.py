"""t2l models: which hypernetworks are here, and which others are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from text_to_lora.cli.common import AsJson, echo_json, progress
from text_to_lora.errors import ConfigError, T2LError


def models(
    folder: Annotated[
        Path, typer.Argument(help="Look for hypernetwork folders up to two levels below.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the embedded hypernetwork, those in FOLDER, and published ones that can be converted.

    \b
    Examples:
      t2l models
      t2l models runs --json
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a folder; name one, or leave it out")
    found: list[dict[str, Any]] = []
    with progress("looking for hypernetworks") as show:
        from text_to_lora.serving import sources
        from text_to_lora.serving.describe import describe

        for name in (sources.EMBEDDED, *map(str, sources.local_hypernets(folder))):
            show(f"reading {name}")
            try:
                found.append({"name": name, **describe(sources.find_hypernet(name))})
            except T2LError as error:
                found.append({"name": name, "kind": "unusable", "reason": str(error)})
    found += [
        {"name": f"{sources.REFERENCE_REPOSITORY}/{path}", "kind": "reference", "base": base}
        for path, base in sources.REFERENCE_CHECKPOINTS.items()
    ]
    if as_json:
        echo_json(found)
        return
    for item in found:
        if item["kind"] == "unusable":
            typer.echo(f"{item['name']}  cannot be used: {item['reason']}")
        elif item["kind"] == "reference":
            typer.echo(f"{item['name']}  for {item['base']}; download it, then t2l convert")
        else:
            typer.echo(
                f"{item['name']}  for {item['base']}, head {item['head']}, rank {item['rank']}, "
                f"{item['parameters']:,} parameters"
            )
