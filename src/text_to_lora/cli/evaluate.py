"""t2l eval: held-out tasks with their controls, and obedience."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from text_to_lora.cli.common import Device, Model, check_device, load_base_quietly, note
from text_to_lora.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from text_to_lora.serving.generator import TextToLora

app = typer.Typer(help="Judge a hypernetwork.", no_args_is_help=True, rich_markup_mode=None)

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Of the base; default: float32 on the CPU, else the checkpoint's own."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]


@app.command("heldout")
def heldout(
    data: Annotated[Path, typer.Option("--data", help="Folder of task collections.")],
    output: Output,
    model: Model = "embedded",
    split: Annotated[str, typer.Option(help="Split of splits.json to score.")] = "dev_heldout",
    multitask: Annotated[
        str | None,
        typer.Option(help="PEFT folder of the multi-task adapter; 'embedded' for the shipped one."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows scored a task.")] = 40,
    seed: Annotated[int, typer.Option(help="Chooses rows, derangements and resamples.")] = 0,
    conditions: Annotated[
        str | None, typer.Option(help="Conditions with commas; default: all that are possible.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Score unseen tasks under base, prompt, multi-task, matched, shuffled and junk adapters.

    Rows with idx % 10 >= 5 alone are scored. Finished conditions are not scored again.

    \b
    Example:
      t2l eval heldout --data data -o results --multitask embedded
    """
    from text_to_lora.lora.peft_format import load_adapter
    from text_to_lora.serving.sources import embedded_folder
    from text_to_lora.tasks.folder import load_data_dir

    try:
        from text_to_lora.evaluation.suite import evaluate_heldout
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    t2l, base, tokenizer = _load(model, device, dtype)
    folder = embedded_folder("multitask") if multitask == "embedded" else multitask
    evaluate_heldout(
        base=base,
        tokenizer=tokenizer,
        tasks=load_data_dir(data, split=split),
        output_dir=output,
        generate=lambda texts: t2l.generate(texts).weights,
        multitask=None if folder is None else load_adapter(folder, base_config=base.config),
        rows_per_task=rows,
        seed=seed,
        conditions=conditions.split(",") if conditions else None,
        provenance={"hypernet": t2l.fingerprint},
        progress=note,
    )
    typer.echo((output / "report.md").read_text(encoding="utf-8"))


@app.command("obedience")
def obedience(
    output: Output, model: Model = "embedded", device: Device = "cpu", dtype: Dtype = None
) -> None:
    """Score 20 descriptions of the kind that first users try, by rule.

    \b
    Example:
      t2l eval obedience -o results
    """
    try:
        from text_to_lora.evaluation.obedience import run_obedience
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    t2l, base, tokenizer = _load(model, device, dtype)
    run_obedience(
        base=base,
        tokenizer=tokenizer,
        generate=lambda texts: t2l.generate(texts).weights,
        output_dir=output,
    )
    typer.echo((output / "obedience.md").read_text(encoding="utf-8"))


def _load(
    model: str, device: str, dtype: str | None
) -> tuple[TextToLora, PreTrainedModel, PreTrainedTokenizerBase]:
    import torch

    from text_to_lora.serving.generator import TextToLora

    t2l = TextToLora.from_pretrained(model, device=check_device(device))
    chosen = None if dtype is None else getattr(torch, dtype)
    base, tokenizer = load_base_quietly(
        t2l.spec.base.name, spec=t2l.spec, device=device, dtype=chosen
    )
    return t2l, base, tokenizer


def _missing(error: ModuleNotFoundError) -> Exception:
    if str(error.name).startswith("text_to_lora"):
        return error
    return ConfigError(
        f"judging needs the package {error.name!r}; pip install 'text-to-lora[eval]'"
    )
