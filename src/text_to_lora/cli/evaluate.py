"""t2l eval: tasks under every condition, obedience, harm to other tasks, and reports of all that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from text_to_lora.cli.common import (
    Base,
    Data,
    DescriptionFile,
    Descriptions,
    Device,
    Model,
    check_file,
    gather,
    load_model_and_base,
    note,
    read_lines,
)
from text_to_lora.errors import ConfigError, needs_extra

if TYPE_CHECKING:
    from text_to_lora.library.library import AdapterLibrary
    from text_to_lora.lora.weights import LoraWeights
    from text_to_lora.models.find import MultiTask
    from text_to_lora.tasks.task import Task

app = typer.Typer(help="Judge a hypernetwork.", no_args_is_help=True, rich_markup_mode=None)

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(
        help="Of the base; default: the checkpoint's own, or float32 where the device multiplies "
        "that more slowly."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]
Multitask = Annotated[
    str | None, typer.Option(help="PEFT folder of the multi-task adapter, or 'embedded'.")
]

HELD_OUT_SPLIT = "dev_heldout"


@app.command("suite")
def suite(
    tasks: Annotated[
        Path, typer.Option(help="Task folder, or folder of task collections with splits.json.")
    ],
    output: Output,
    model: Model = "embedded",
    base: Base = None,
    split: Annotated[
        str | None,
        typer.Option(help=f"Split to score; default with splits.json: {HELD_OUT_SPLIT}."),
    ] = None,
    conditions: Annotated[
        str | None, typer.Option(help="Conditions with commas; default: all that are possible.")
    ] = None,
    multitask: Multitask = None,
    multitask_in_prompt: Annotated[
        str | None,
        typer.Option(
            help="PEFT folder of a multi-task adapter that was trained with descriptions in the "
            "prompt, or 'embedded'."
        ),
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="Library of training tasks: mean, retrieval, arrow.")
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, help="Library adapters arrow routes over; default: all.")
    ] = None,
    oracle: Annotated[
        Path | None, typer.Option(help="Library of the scored tasks' own adapters: oracle.")
    ] = None,
    hyperdecoder: Annotated[
        str | None,
        typer.Option(help="Hypernetwork trained to read inputs; default: --model reads them."),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Examples in the prompt of icl.")] = 3,
    paraphrases: Annotated[
        int, typer.Option(min=1, help="Descriptions of a task beside its definition.")
    ] = 3,
    rows: Annotated[int, typer.Option(min=0, help="Most rows scored a task; 0 for all.")] = 40,
    seed: Annotated[int, typer.Option(help="Chooses rows, shots, derangements.")] = 0,
    max_new_tokens: Annotated[
        int, typer.Option(min=0, help="Most tokens of an answer; 0: likelihoods alone.")
    ] = 32,
    max_length: Annotated[
        int, typer.Option(min=2, help="Most tokens of prompt and answer together.")
    ] = 512,
    cut_descriptions: Annotated[
        bool,
        typer.Option(
            "--cut-descriptions",
            help="Cut descriptions that do not fit the prompt, and count them, instead of refusing.",
        ),
    ] = False,
    label_likelihood: Annotated[
        bool, typer.Option(help="Also choose labels by likelihood.")
    ] = True,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Score tasks under base, prompt, baselines, matched, shuffled, junk and oracle adapters.

    Rows that nothing is trained on alone are scored: idx % 10 == 9 of tasks of the split "train",
    idx % 10 >= 5 of others. What is finished is not scored again.

    \b
    Example:
      t2l eval suite --tasks data -o results
    """
    from text_to_lora.encoders.cache import CachedEncoder
    from text_to_lora.generate import TextToLora

    with needs_extra("eval", "judging"):
        from text_to_lora.evaluation.conditions import Sources, check_kinds, plan_conditions
        from text_to_lora.evaluation.suite import evaluate_suite
    kinds = [kind.strip() for kind in conditions.split(",")] if conditions else None
    check_kinds(kinds or ())
    scored = _load_tasks(tasks, split)
    t2l, language_model, tokenizer = load_model_and_base(model, base, device, dtype)
    # Thousands of descriptions of a library are embedded once, however often a run goes on.
    encoder = None if library is None else CachedEncoder(t2l.encoder, output / "embeddings")
    config = language_model.config
    reader = t2l
    if hyperdecoder is not None:
        reader = TextToLora.from_pretrained(hyperdecoder, device=device)
        reader.spec.check_base(config)
        reader.attach_base(language_model, tokenizer)
    sources = Sources(
        tasks=scored,
        seed=seed,
        generate=lambda texts: t2l.generate(texts).weights,
        encode=None if encoder is None else encoder.encode,
        encoder="" if encoder is None else encoder.config.name,
        multitask=load_multitask(multitask, config),
        multitask_in_prompt=load_multitask(multitask_in_prompt, config, "multitask-in-prompt"),
        library=_load_adapters(library, config),
        hyperdecoder=lambda texts: reader.generate(texts).weights,
        hyperdecoder_about={"hypernet": reader.fingerprint, "trained_on": _reads(reader.training)},
        oracle=_load_adapters(oracle, config),
        shots=shots,
        paraphrases=paraphrases,
        experts=experts,
    )
    evaluate_suite(
        base=language_model,
        tokenizer=tokenizer,
        tasks=scored,
        conditions=plan_conditions(kinds, sources),
        output_dir=output,
        rows_per_task=rows or None,
        seed=seed,
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        label_likelihood=label_likelihood,
        cut_descriptions=cut_descriptions,
        provenance={"hypernet": t2l.fingerprint},
        progress=note,
    )
    typer.echo((output / "report.md").read_text(encoding="utf-8"))


@app.command("obedience")
def obedience(
    output: Output,
    model: Model = "embedded",
    base: Base = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Score by rule 20 descriptions of the kind that first users try, and 20 with unseen words.

    Each set is an evaluation of its own, as `t2l eval suite` writes it: everyday/ and new_words/.
    What is finished is not scored again.

    \b
    Example:
      t2l eval obedience -o results
    """
    with needs_extra("eval", "judging"):
        from text_to_lora.evaluation.obedience import evaluate_obedience
    t2l, language_model, tokenizer = load_model_and_base(model, base, device, dtype)
    reports = evaluate_obedience(
        base=language_model,
        tokenizer=tokenizer,
        generate=lambda texts: t2l.generate(texts).weights,
        output_dir=output,
        provenance={"hypernet": t2l.fingerprint},
        progress=note,
    )
    for name in reports:
        typer.echo((output / name / "report.md").read_text(encoding="utf-8"))


@app.command("harm")
def harm(
    data: Data,
    output: Output,
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
        from text_to_lora.analysis.no_harm import Judged, choose_other_rows, run_harm
        from text_to_lora.analysis.plots import plot_harm
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


@app.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(help="report.json of an evaluation, or its folder.")],
    b: Annotated[Path, typer.Argument(help="That of another; changes are B minus A.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file of all figures.")
    ] = None,
) -> None:
    """Say what changed from report A to report B, with paired intervals.

    Rows are paired where the samples lie beside both reports, tasks otherwise.

    \b
    Example:
      t2l eval compare before/report.json after/report.json -o changes.json
    """
    if output is not None:
        check_file(output)
    with needs_extra("eval", "this"):
        from text_to_lora.evaluation.compare import compare_reports
        from text_to_lora.evaluation.tables import render_comparison
        from text_to_lora.files import write_json

        comparison = compare_reports(a, b)
    if output is not None:
        write_json(output, comparison, overwrite=False)
    typer.echo(render_comparison(comparison), nl=False)


@app.command("report")
def report(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with run.json, as `t2l eval suite` leaves it."),
    ],
) -> None:
    """Make the tables and plots of an evaluation anew from its samples; no model is needed.

    \b
    Example:
      t2l eval report results
    """
    with needs_extra("eval", "this"):
        from text_to_lora.evaluation.report import build_report

        build_report(folder)
    typer.echo((folder / "report.md").read_text(encoding="utf-8"), nl=False)


def load_multitask(
    adapter: str | None, config: Any, embedded: MultiTask = "multitask"
) -> LoraWeights | None:
    """An adapter for the base of this configuration; None where there is none to load."""
    from text_to_lora.lora.peft_format import load_adapter
    from text_to_lora.models.find import find_adapter

    return (
        None
        if adapter is None
        else load_adapter(find_adapter(adapter, embedded=embedded), base_config=config)
    )


def _load_adapters(folder: Path | None, config: Any) -> AdapterLibrary | None:
    from text_to_lora.library.library import load_library

    return None if folder is None else load_library(folder, base_config=config)


def _load_tasks(folder: Path, split: str | None) -> list[Task]:
    """The tasks of a split of a data folder, or of one task folder."""
    from text_to_lora.tasks.folder import load_folder_or_tree

    loaded = load_folder_or_tree(folder, split or HELD_OUT_SPLIT)
    scored = [task for task in loaded if split in (None, task.split)]
    if not scored:
        splits = ", ".join(sorted({task.split for task in loaded}))
        raise ConfigError(
            f"{str(folder)!r} has no task of split {split!r}; choose one of {splits}, or leave "
            "--split out"
        )
    return scored


def _reads(training: Mapping[str, Any]) -> str:
    """What a hypernetwork was trained to read."""
    section = training.get("hypernet")
    return str(section.get("reads", "description")) if isinstance(section, Mapping) else "unknown"
