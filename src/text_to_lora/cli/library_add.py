"""t2l library add: PEFT folders become part of a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError
from text_to_lora.files import read_json

if TYPE_CHECKING:
    from text_to_lora.library.import_adapters import ImportReport


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
