"""t2l eval harm: what adapters do to other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text_to_lora.cli.common import (
    Base,
    Data,
    DescriptionFile,
    Descriptions,
    Device,
    Model,
    gather,
    load_model_and_base,
    note,
    read_lines,
)
from text_to_lora.errors import needs_extra


def harm(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    descriptions: Descriptions = None,
    from_file: DescriptionFile = None,
    adapters: Annotated[
        list[Path] | None, typer.Option("--adapter", help="PEFT folder; may be given again.")
    ] = None,
    model: Model = "embedded",
    base: Base = None,
    split: Annotated[
        str, typer.Option(help="Split of splits.json that the other tasks are of.")
    ] = "train",
    tasks: Annotated[int, typer.Option(min=2, help="Other tasks, of unlike source groups.")] = 24,
    rows: Annotated[int, typer.Option(min=1, help="Rows a task.")] = 2,
    text: Annotated[
        Path | None, typer.Option("--text", help="UTF-8 file of plain text, a paragraph a line.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses tasks, rows and resamples.")] = 0,
    device: Device = "cpu",
) -> None:
    """Measure what adapters do to answers of other tasks, and to plain text.

    Every row is asked with its own task's description in the prompt, with and without the adapter:
    the difference in answer NLL is the harm. Finished adapters are not measured again.

    \b
    Examples:
      t2l eval harm "Answer in capitals" --data data -o harm
      t2l eval harm --adapter my-adapter --data data -o harm --text paragraphs.txt
    """
    texts = []
    if descriptions or from_file is not None or not adapters:
        texts = gather(descriptions, from_file, "description", "--from-file")
    with needs_extra("eval", "judging"):
        from text_to_lora.analysis.harm_plots import plot_harm
        from text_to_lora.analysis.no_harm import Judged, choose_other_rows, run_harm
    from text_to_lora.files import file_hash
    from text_to_lora.lora.peft_format import WEIGHTS_FILE, load_adapter
    from text_to_lora.tasks.folder import load_data_dir
    from text_to_lora.tasks.task import Task

    plain_texts = [] if text is None else read_lines(text)
    other_rows = choose_other_rows(
        load_data_dir(data, split=split),
        num_tasks=tasks,
        rows_per_task=rows,
        seed=seed,
        examples=Task.validation if split == "train" else Task.scored,
    )
    t2l, language_model, tokenizer = load_model_and_base(model, base, device)
    judged = [Judged(entry, {"description": entry, "hypernet": t2l.fingerprint}) for entry in texts]
    weights = t2l.generate(texts).weights.unbind() if texts else []
    for folder in adapters or ():
        weights.append(load_adapter(folder, base_config=language_model.config))
        judged.append(Judged(str(folder), {"sha256": file_hash(folder / WEIGHTS_FILE)}))
    result = run_harm(
        base=language_model,
        tokenizer=tokenizer,
        adapters=judged,
        weights=weights,
        rows=other_rows,
        output_dir=output,
        texts=plain_texts,
        seed=seed,
        progress=note,
    )
    with needs_extra("eval", "the plot"):
        plot_harm(result, output / "harm.png")
    typer.echo((output / "harm.md").read_text(encoding="utf-8"))
