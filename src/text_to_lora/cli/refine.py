"""t2l refine: descriptions and a few rows in, refined PEFT folders out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, echo

from text_to_lora.cli import common
from text_to_lora.errors import ConfigError, needs_extra
from text_to_lora.files import check_output

if TYPE_CHECKING:
    from text_to_lora.generate import Adapters

DEFAULT_SECONDS = 60.0


def refine(
    output: common.Output,
    description: Annotated[str | None, Argument(help="What the task is.")] = None,
    rows: Annotated[
        Path | None, Option(help="Rows as .csv, .tsv, .jsonl, .json or .parquet.")
    ] = None,
    tasks: Annotated[
        Path | None, Option(help="Task folder, instead of DESCRIPTION and --rows.")
    ] = None,
    input_column: Annotated[str, Option(help="Column of the inputs.")] = "input",
    output_column: Annotated[str, Option(help="Column of the answers.")] = "output",
    encoding: Annotated[str, Option(help="Of the rows, in CSV and TSV.")] = "utf-8",
    seconds: Annotated[
        float | None,
        Option(help="Time limit of the training itself; default 60, or none with --steps."),
    ] = None,
    steps: Annotated[int | None, Option(help="Most steps of a task.")] = None,
    keep_out: Annotated[
        float, Option(help="Share of the rows that choose the step and are not trained on.")
    ] = 0.25,
    rate: Annotated[float, Option(help="Learning rate.")] = 1e-3,
    pull: Annotated[
        float, Option(help="Decay towards the generated adapter, per unit of the rate.")
    ] = 10.0,
    max_answer_tokens: Annotated[int, Option(help="Most tokens of a row's answer.")] = 64,
    seed: Annotated[int, Option(help="Draws the rows that are kept out.")] = 0,
    model: common.Model = "embedded",
    base: common.Base = None,
    device: common.Device = "cpu",
    fresh: common.Fresh = False,
    overwrite: common.Overwrite = False,
    as_json: common.AsJson = False,
) -> None:
    """Generate an adapter from a description and train it on a few rows of your own.

    Some rows are kept out of the training. They choose after how many steps the adapter is best,
    which may be none, and the figures that are printed are of them. Under eight rows each is left
    out in turn. Several tasks of a task folder are trained together, each with an adapter of its own.

    Unfinished work stands in OUTPUT.unfinished until the adapter is written: after Ctrl-C or a kill
    the same command goes on from there, with another --seconds or --steps if you like.

    \b
    Examples:
      t2l refine "Decide whether a mail is about a refund; say yes or no" --rows mails.csv -o refund
      t2l refine "Name the product" --rows mails.jsonl -o product --seconds 120 --keep-out 0.3
      t2l refine "Sort the request" --rows log.tsv -o sorted --input-column text --output-column tag
      t2l refine --tasks my-tasks -o my-adapters --steps 24
    """
    check_output(output, overwrite=overwrite, sources=[model, *filter(None, [rows, tasks])])
    if tasks is None:
        inputs = _read_rows(description, rows, input_column, output_column, encoding)
    elif description is None and rows is None:
        inputs = _read_folder(tasks)
    else:
        raise ConfigError(
            "--tasks has descriptions and rows of its own; leave out DESCRIPTION and --rows"
        )
    state = output.with_name(f"{output.name}.unfinished")
    with common.progress("loading the hypernetwork") as show, _naming_state(state):
        with needs_extra("train,eval"):
            from text_to_lora.refinement import refine_with
            from text_to_lora.training.checkpoints import RunFolder
        t2l = common.load_generator(model, base, device)
        common.silence_transformers()  # the base is loaded later
        show("loading the base model, generating, then training")
        adapters = refine_with(
            t2l,
            **inputs,
            seconds=DEFAULT_SECONDS if seconds is None and steps is None else seconds,
            steps=steps,
            state_dir=state,
            resume=not fresh,
            report=show,
            keep_out=keep_out,
            rate=rate,
            pull=pull,
            max_answer_tokens=max_answer_tokens,
            seed=seed,
        )
        show("writing")
        folders = adapters.save(output, overwrite=overwrite)
        RunFolder(state).delete()
    if as_json:
        records = zip(folders, adapters.provenance, strict=True)
        common.echo_json([{"path": str(folder), **entry} for folder, entry in records])
        return
    _show(adapters, folders)


def _read_folder(folder: Path) -> dict[str, Any]:
    """Descriptions, rows and names of the tasks of a folder."""
    from text_to_lora.tasks.folder import load_folder

    tasks = load_folder(folder)
    return {
        "descriptions": [task.definition for task in tasks],
        "examples": [[(e.input, e.outputs[0]) for e in task.examples] for task in tasks],
        "names": [task.name for task in tasks],
    }


def _read_rows(
    description: str | None,
    rows: Path | None,
    input_column: str,
    output_column: str,
    encoding: str,
) -> dict[str, Any]:
    """The description of one task, its rows, and the file's name for messages."""
    from text_to_lora.tasks.user_rows import read_rows

    if description is None or rows is None:
        missing = "description" if description is None else "rows"
        raise ConfigError(f"no {missing}; give DESCRIPTION and --rows FILE, or --tasks FOLDER")
    texts = common.gather([description], None, "description", "")
    columns = {"input_column": input_column, "output_column": output_column}
    table = read_rows(rows, **columns, encoding=encoding)
    return {"descriptions": texts, "examples": [table], "names": [repr(str(rows))]}


@contextmanager
def _naming_state(state: Path) -> Iterator[None]:
    """Say after Ctrl-C where the work goes on from."""
    try:
        yield
    except KeyboardInterrupt:
        if state.exists():
            common.note(
                f"the best state so far is in {str(state)!r}; the same command goes on from it"
            )
        raise


def _show(adapters: Adapters, folders: Sequence[Path]) -> None:
    labels = {"base": "base alone", "sentence": "sentence alone", "refined": "refined"}
    for folder, entry in zip(folders, adapters.provenance, strict=True):
        record: dict[str, Any] = entry["refinement"]
        echo(
            f"{folder}  {record['steps']} of {record['steps_tried']} steps, "
            f"{record['seconds']:.0f} s  {entry['description']}\n"
            f"  judged on {record['kept_out_rows']} of {record['rows']} rows "
            f"({record['kept_out_by']})"
        )
        for name, label in labels.items():
            figure = record["kept_out"][name]
            echo(
                f"  {label:14}  loss {figure['loss']:.3f} nats a token, "
                f"exact answers {figure['score']:.0%}"
            )
        echo(f"  {record['outlook']}")
        echo(f"  to answer with it: t2l run --adapter {quote(str(folder))} --input TEXT")
