"""t2l demo: the embedded default on tasks that no training saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from text_to_lora.cli.common import AsJson, Base, Model, echo_json, load_model_and_base, note

if TYPE_CHECKING:
    from text_to_lora.demo.refine import ShownRefinement
    from text_to_lora.demo.show import Shown


def demo(
    model: Model = "embedded",
    base: Base = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows shown a task.")] = 3,
    seed: Annotated[int, typer.Option(help="Draws the rows.")] = 0,
    refine_seconds: Annotated[
        float, typer.Option(min=0, help="Most seconds of refining at the end; 0 for none.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Generate adapters for several descriptions and show answers before and after.

    The descriptions and rows were written for this demonstration; misses are shown. At the end an
    adapter is refined on 16 rows of a task whose labels no sentence tells.

    \b
    Examples:
      t2l demo
      t2l demo --seed 7 --rows 5
    """
    from dataclasses import asdict

    from text_to_lora.demo.refine import show_refinement
    from text_to_lora.demo.show import demo_tasks, show

    tasks = demo_tasks()
    note("loading the hypernetwork and the base model")
    t2l, language_model, tokenizer = load_model_and_base(model, base)
    started = time.perf_counter()
    adapters = t2l.generate([task.description for task in tasks])
    note(f"{len(tasks)} adapters in {time.perf_counter() - started:.2f} s, text encoder included")
    note("answering with and without the adapters")
    shown = show(tasks, adapters, language_model, tokenizer, rows_per_task=rows, seed=seed)
    refinement = None
    if refine_seconds:
        note(f"refining one adapter on 16 rows, at most {refine_seconds:g} s")
        refinement = show_refinement(t2l, seconds=refine_seconds)
    if as_json:
        refined = None if refinement is None else asdict(refinement)
        echo_json({"seed": seed, "rows": [asdict(row) for row in shown], "refinement": refined})
        return
    _print_rows(shown, seed)
    if refinement is not None:
        _print_refinement(refinement)
    typer.echo(
        "\nTry a sentence of your own:\n"
        '  t2l run "Answer with the last word" --input "the cat sat on the mat"\n'
        '  t2l generate "Answer with the last word" -o last-word   # a PEFT folder\n'
        "  t2l --help"
    )


def _print_rows(shown: Sequence[Shown], seed: int) -> None:
    typer.echo(f"rows drawn with seed {seed}; the base sees the input alone\n")
    for description, members in groupby(shown, key=lambda row: row.description):
        typer.echo(f'"{description}"')
        for row in members:
            mark = "right" if row.adapted_right else "MISS "
            typer.echo(f"  {mark}  {row.input}")
            typer.echo(f"         base {row.base!r}  adapted {row.adapted!r}  is {row.expected!r}")
        typer.echo("")
    base_right = sum(row.base_right for row in shown)
    adapted_right = sum(row.adapted_right for row in shown)
    typer.echo(f"right: base {base_right} of {len(shown)}, adapted {adapted_right} of {len(shown)}")


def _print_refinement(refinement: ShownRefinement) -> None:
    rows = list(zip(refinement.rows, refinement.before, refinement.after, strict=True))
    typer.echo(f'\n"{refinement.description}", the sentence alone and refined on 16 rows')
    for (text, expected), before, after in rows:
        mark = "right" if after == expected else "MISS "
        typer.echo(f"  {mark}  {text}")
        typer.echo(f"         sentence {before!r}  refined {after!r}  is {expected!r}")
    right = [sum(row[place] == row[0][1] for row in rows) for place in (1, 2)]
    typer.echo(f"right: sentence {right[0]} of {len(rows)}, refined {right[1]} of {len(rows)}")
