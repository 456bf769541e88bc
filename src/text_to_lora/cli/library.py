"""t2l library: export the adapters of a library, say what one holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer, echo

from text_to_lora.cli import common

if TYPE_CHECKING:
    from text_to_lora.library.library import LibraryEntry

app = Typer(help="Libraries of adapters.", no_args_is_help=True, rich_markup_mode=None)

Library = Annotated[Path, Argument(help="Folder of the library.")]


@app.command("export")
def export(
    library: Library,
    output: common.Output,
    task: Annotated[
        list[str] | None, Option(help="Task to write; may repeat. Default: all.")
    ] = None,
    skip_bad: common.SkipBad = False,
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Write one PEFT folder a task, and index.json that says which is whose.

    Folders that an earlier run finished are kept.

    \b
    Examples:
      t2l library export library -o adapters
      t2l library export library -o two --task sort-words --task sentiment/reviews
    """
    with common.progress("reading the library") as show:
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
        common.echo_json({"path": str(output), "folders": report.folders, "kept": report.unchanged})
        return
    there = f", {len(report.unchanged)} were there" if report.unchanged else ""
    echo(f"{output}  {len(report.folders)} adapters{there}")


@app.command("show")
def show(
    library: Library, skip_bad: common.SkipBad = False, as_json: common.AsJson = False
) -> None:
    """Say what a library holds: base, rank, modules, size, and every adapter.

    Losses are nats a token on held-out rows, of the adapter and of the base.

    \b
    Examples:
      t2l library show library
      t2l library show library --json
    """
    with common.progress("reading the library"):
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
        common.echo_json({**facts, "training": loaded.training, "entries": entries})
        return
    facts["modules"] = ", ".join(facts["modules"])
    common.echo_facts(
        (name, f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in facts.items()
    )
    echo("")
    for line in _table(loaded.entries):
        echo(line)


def _table(entries: Sequence[LibraryEntry]) -> Iterator[str]:
    """A heading and a line for each adapter, the first column to the left, others to the right."""
    rows: list[tuple[str, ...]] = [
        ("task", "validation loss", "base loss", "steps", "descriptions")
    ]
    for entry in entries:
        losses = (entry.validation_loss, entry.base_loss)
        numbers = ["-" if loss is None else f"{loss:.4f}" for loss in losses]
        numbers += ["-" if entry.steps is None else f"{entry.steps:,}"]
        rows.append((entry.task, *numbers, str(len(entry.descriptions))))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    for task, *values in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(values, others, strict=True))
        yield "  ".join((f"{task:{first}}", *cells))
