"""t2l library: import adapters into a library, export them, say what one holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from text_to_lora.cli.common import AsJson, Overwrite, echo_json, progress
from text_to_lora.errors import ConfigError

app = typer.Typer(help="Libraries of adapters.", no_args_is_help=True, rich_markup_mode=None)

SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave broken adapters out, with a warning each.")
]
Library = Annotated[Path, typer.Argument(help="Folder of the library.")]


@app.command("add")
def add(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR", help="Folders with PEFT adapters at any depth, or OWNER/NAME."
        ),
    ],
    library: Annotated[
        Path, typer.Option("--library", "-o", help="Library to add to, or a new folder.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model; by default the one the adapters name.")
    ] = None,
    trust_base: Annotated[
        bool,
        typer.Option("--trust-base", help="Take adapters that name another base for those of it."),
    ] = False,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Bring adapters to this rank by truncated SVD.")
    ] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help='JSON file of descriptions: {"task": ["text", ...]}.')
    ] = None,
    skip_bad: SkipBad = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace adapters of tasks that are there already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import PEFT adapters into a library.

    A task is called as its folder's path below DIR. Adapters of another base, and of unlike rank,
    modules or layers, are refused with the list of what differs.

    \b
    Examples:
      t2l library add adapters -o library --descriptions tasks.json
      t2l library add more -o library --rank 8 --skip-bad
      t2l library add Lots-of-LoRAs/Mistral-7B-Instruct-v0.2-4b-r16-task280 -o lots
    """
    with progress("looking for adapters") as show:
        from text_to_lora.library.folders import find_adapters
        from text_to_lora.library.import_adapters import import_adapters
        from text_to_lora.models.base import load_base_config
        from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE, base_to_load, find_adapter

        texts = None if descriptions is None else _read_descriptions(descriptions)
        found = []
        for source in sources:
            is_folder = Path(source).is_dir()
            folder = Path(source) if is_folder else find_adapter(source)
            found += find_adapters(folder, name=source)
        show(f"importing {len(found)} adapters")
        report = import_adapters(
            found,
            library,
            read_base=lambda name, revision: load_base_config(
                base_to_load(name, revision), revision=revision
            ),
            base=EMBEDDED_BASE if base == EMBEDDED else base,
            trust_base=trust_base,
            rank=rank,
            descriptions=texts,
            skip_bad=skip_bad,
            overwrite=overwrite,
        )
    errors = report.rank_errors
    worst = max(errors, key=lambda task: errors[task]) if errors else None
    if as_json:
        dtype = str(report.dtype).removeprefix("torch.")
        facts = {"path": str(library), **asdict(report), "dtype": dtype}
        if worst is not None:
            facts["rank_error"] = {
                "mean": sum(errors.values()) / len(errors),
                "worst": errors[worst],
                "worst_task": worst,
            }
        echo_json(facts)
        return
    parts = [f"{len(report.added)} added"]
    parts += [f"{len(report.replaced)} replaced"] if report.replaced else []
    parts += [f"{len(report.skipped)} left out"] if report.skipped else []
    typer.echo(f"{library}  {', '.join(parts)}; {report.num_adapters} adapters")
    if worst is not None:
        typer.echo(
            f"rank {rank}: {len(errors)} adapters changed rank, relative error of ΔW "
            f"{sum(errors.values()) / len(errors):.4f} on average, {errors[worst]:.4f} at worst "
            f"({worst})"
        )
    if report.rescaled:
        typer.echo("scaling: unlike scalings were folded into B; ΔW is as it was")


@app.command("export")
def export(
    library: Library,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapters.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Task to write; may repeat. Default: all.")
    ] = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write one PEFT folder a task, and index.json that says which is whose.

    Folders that an earlier run finished are kept.

    \b
    Examples:
      t2l library export library -o adapters
      t2l library export library -o two --task sort-words --task sentiment/reviews
    """
    with progress("reading the library") as show:
        from text_to_lora.library.export import export_library
        from text_to_lora.library.library import load_library

        report = export_library(
            load_library(library, skip_bad=skip_bad),
            output,
            tasks=task or None,
            overwrite=overwrite,
            progress=show,
        )
    if as_json:
        echo_json({"path": str(output), **asdict(report)})
        return
    there = f", {len(report.kept)} were there" if report.kept else ""
    typer.echo(f"{output}  {len(report.folders)} adapters{there}")


@app.command("show")
def show(library: Library, skip_bad: SkipBad = False, as_json: AsJson = False) -> None:
    """Say what a library holds: base, rank, modules, size, and every adapter.

    Losses are nats a token on held-out rows, of the adapter and of the base.

    \b
    Examples:
      t2l library show library
      t2l library show library --json
    """
    with progress("reading the library"):
        from text_to_lora.library.library import load_library

        loaded = load_library(library, skip_bad=skip_bad)
    spec, weights = loaded.spec, loaded.weights
    facts: dict[str, Any] = {
        "base": spec.base.name,
        "rank": spec.rank,
        "scaling": spec.scaling,
        "modules": [group.key for group in spec.groups],
        "layers": len({slot.layer for slot in spec.slots}),
        "dtype": str(weights.dtype).removeprefix("torch."),
        "adapters": len(loaded),
        "parameters": spec.num_parameters,
        "bytes": weights.num_bytes,
        "fingerprint": loaded.fingerprint,
    }
    if as_json:
        entries = [asdict(entry) for entry in loaded.entries]
        echo_json({**facts, "training": loaded.training, "entries": entries})
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"{key:{width}}  {f'{text:,}' if isinstance(text, int) else text}")
    typer.echo("")
    rows = [("task", "validation loss", "base loss", "steps", "descriptions")]
    rows += [
        (
            entry.task,
            _number(entry.validation_loss),
            _number(entry.base_loss),
            "-" if entry.steps is None else f"{entry.steps:,}",
            str(len(entry.descriptions)),
        )
        for entry in loaded.entries
    ]
    for line in _table(rows):
        typer.echo(line)


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows with the first column to the left and others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], others, strict=True))
        yield "  ".join((f"{row[0]:{first}}", *cells))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _read_descriptions(path: Path) -> Mapping[str, list[str]]:
    """Read {"task": ["text", ...]}.

    Raises ConfigError when it is something else.
    """
    from text_to_lora.files import read_json

    payload = read_json(path)
    for task, texts in payload.items():
        if not isinstance(texts, list) or not all(
            isinstance(text, str) and text.strip() for text in texts
        ):
            raise ConfigError(
                f"{str(path)!r} has descriptions {texts!r} of task {task!r}; "
                "a list of texts is needed"
            )
    return payload
