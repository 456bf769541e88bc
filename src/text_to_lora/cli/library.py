"""t2l library: PEFT folders become part of a library, its adapters such folders; what one holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json

if TYPE_CHECKING:
    from text_to_lora.library.import_adapters import ImportReport

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


@app.command("add")
def add(
    sources: Annotated[
        list[str],
        Argument(metavar="DIR", help="Folders with PEFT adapters at any depth, or OWNER/NAME."),
    ],
    library: Annotated[Path, Option("--library", "-o", help="Library to add to, or a new folder.")],
    base: common.AdapterBase = None,
    trust_base: Annotated[
        bool, Option("--trust-base", help="Take adapters that name another base for those of it.")
    ] = False,
    rank: Annotated[
        int | None, Option(min=1, help="Bring adapters to this rank by truncated SVD.")
    ] = None,
    descriptions: Annotated[
        Path | None, Option(help='JSON file of descriptions: {"task": ["text", ...]}.')
    ] = None,
    skip_bad: common.SkipBad = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace adapters of tasks that are there already.")
    ] = False,
    as_json: common.AsJson = False,
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
    with common.progress("looking for adapters") as show:
        from text_to_lora.library.folders import find_adapters
        from text_to_lora.library.import_adapters import import_adapters
        from text_to_lora.models.base import load_base_config
        from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE, base_to_load, find_adapter

        texts = None if descriptions is None else _read_descriptions(descriptions)
        folders = []
        for source in sources:
            folder = Path(source) if Path(source).is_dir() else find_adapter(source)
            folders += find_adapters(folder, name=source)
        show(f"importing {len(folders)} adapters")
        report = import_adapters(
            folders,
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
    _show_import(report, library, rank, as_json=as_json)


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
    rows = [("task", "validation loss", "base loss", "steps", "descriptions")]
    for entry in loaded.entries:
        losses = (entry.validation_loss, entry.base_loss)
        validation, base = ("-" if loss is None else f"{loss:.4f}" for loss in losses)
        steps = "-" if entry.steps is None else f"{entry.steps:,}"
        rows.append((entry.task, validation, base, steps, str(len(entry.descriptions))))
    for line in common.align(rows):
        echo(line)


def _read_descriptions(path: Path) -> Mapping[str, list[str]]:
    """Read {"task": ["text", ...]}.

    Raises ConfigError when it is something else.
    """
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


def _show_import(report: ImportReport, library: Path, rank: int | None, *, as_json: bool) -> None:
    errors = report.rank_errors
    worst = max(errors, key=lambda task: errors[task]) if errors else ""
    mean = sum(errors.values()) / max(1, len(errors))
    if as_json:
        dtype = str(report.dtype).removeprefix("torch.")
        facts: dict[str, Any] = {"path": str(library), **asdict(report), "dtype": dtype}
        if errors:
            facts["rank_error"] = {"mean": mean, "worst": errors[worst], "worst_task": worst}
        common.echo_json(facts)
        return
    parts = [f"{len(report.added)} added"]
    parts += [f"{len(report.replaced)} replaced"] if report.replaced else []
    parts += [f"{len(report.skipped)} left out"] if report.skipped else []
    echo(f"{library}  {', '.join(parts)}; {report.num_adapters} adapters")
    if errors:
        echo(
            f"rank {rank}: {len(errors)} adapters changed rank, relative error of ΔW {mean:.4f} on "
            f"average, {errors[worst]:.4f} at worst ({worst})"
        )
    if report.rescaled:
        echo("scaling: unlike scalings were folded into B; ΔW is as it was")
