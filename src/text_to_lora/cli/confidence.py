"""t2l eval confidence: calibrates a hypernetwork's confidence on tasks that were set aside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from text_to_lora.cli.common import (
    Device,
    Model,
    check_device,
    import_training,
    load_base_quietly,
    note,
)
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from text_to_lora.tasks.task import Task


def confidence(
    data: Annotated[Path, typer.Option("--data", help="Folder of task collections.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    model: Model = "embedded",
    split: Annotated[
        str, typer.Option(help="Split of splits.json that the hypernetwork was trained on.")
    ] = "train",
    rows: Annotated[int, typer.Option(min=1, help="Rows a task that was set aside.")] = 8,
    one_in: Annotated[
        int | None,
        typer.Option(
            min=2, help="One group in this many was set aside; default: what the model records."
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Put the calibration beside the hypernetwork.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Chooses texts, rows and resamples.")] = 0,
    device: Device = "cpu",
) -> None:
    """Calibrate confidence: measure what adapters gain on tasks that training set aside, and fit.

    Writes confidence.safetensors, confidence.json and confidence.png. With --store the first of
    them is put into the model's folder too, where `t2l generate` reads it. Finished tasks are not
    measured again.

    \b
    Example:
      t2l eval confidence --data data -o calibration -m my-hypernet --store
    """
    training = import_training("text_to_lora.training.data")
    from text_to_lora.analysis.calibrate import calibrate
    from text_to_lora.analysis.confidence import Sight
    from text_to_lora.analysis.confidence_plots import plot_confidence
    from text_to_lora.hypernet.checkpoint import store_confidence
    from text_to_lora.models.find import find_hypernet
    from text_to_lora.serving.generator import TextToLora
    from text_to_lora.tasks.folder import load_data_dir

    if store and not Path(model).is_dir():
        raise ConfigError(
            f"--store needs the folder of a hypernetwork, not {model!r}; leave it out and copy "
            "confidence.safetensors beside the weights"
        )
    t2l = TextToLora.from_pretrained(model, device=check_device(device))
    recorded = t2l.training.get("data", {})
    seen, unseen = training.recall_split(load_data_dir(data, split=split), recorded, one_in=one_in)
    base, tokenizer = load_base_quietly(spec=t2l.spec, device=device)
    _, report = calibrate(
        base=base,
        tokenizer=tokenizer,
        sight=Sight(
            t2l.encode, lambda texts: t2l.generate(texts).weights, t2l.encoder.count_tokens
        ),
        hypernet=t2l.fingerprint,
        seen=seen,
        unseen=unseen,
        families=_families(seen, recorded),
        output_dir=output,
        rows_per_task=rows,
        seed=seed,
        progress=note,
    )
    try:
        plot_confidence(report["cross_validated"], output / "confidence.png")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the plot needs the package {error.name!r}; pip install 'text-to-lora[eval]'"
        ) from None
    if store:
        store_confidence(find_hypernet(model), output / "confidence.safetensors")
    _print(report)


def _families(seen: list[Task], recorded: dict[str, Any]) -> list[Task]:
    """The made tasks that training set aside, as its configuration says."""
    count = recorded.get("validation_family_tasks", 0)
    if not recorded.get("family_tasks") or not count:
        return []
    from text_to_lora.tasks.families import families

    return families(seen, seed=recorded.get("family_seed", 0), split="validation", num_tasks=count)


def _print(report: dict[str, Any]) -> None:
    found = report["cross_validated"]
    typer.echo(
        f"{report['tasks']} tasks of {report['groups']} groups set aside, {report['texts']} texts; "
        "each group foretold by the others"
    )
    for population, measures in found["risk_coverage"].items():
        areas = measures["no_gain"]["areas"]
        listed = ", ".join(
            f"{name} {area['mean']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
            for name, area in areas.items()
        )
        typer.echo(f"area under risk and coverage, {population}: {listed}")
    for name, area in found["auroc"]["confidence"].items():
        typer.echo(f"AUROC {name}: {area['mean']:.3f} [{area['low']:.3f}, {area['high']:.3f}]")
