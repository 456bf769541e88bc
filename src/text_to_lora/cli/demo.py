"""t2l demo: the embedded default on tasks that no training saw."""

from __future__ import annotations

import time
from itertools import groupby
from typing import Annotated

import typer

from text_to_lora.cli.common import AsJson, Base, Model, echo_json, load_model_and_base, note


def demo(
    model: Model = "embedded",
    base: Base = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows shown a task.")] = 3,
    seed: Annotated[int, typer.Option(help="Draws the rows.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate adapters for several descriptions and show answers before and after.

    The descriptions and rows were written for this demonstration; misses are shown.

    \b
    Examples:
      t2l demo
      t2l demo --seed 7 --rows 5
    """
    from dataclasses import asdict

    from text_to_lora.demo.show import demo_tasks, show

    tasks = demo_tasks()
    note("loading the hypernetwork and the base model")
    t2l, language_model, tokenizer = load_model_and_base(model, base)
    started = time.perf_counter()
    adapters = t2l.generate([task.description for task in tasks])
    note(f"{len(tasks)} adapters in {time.perf_counter() - started:.2f} s, text encoder included")
    note("answering with and without the adapters")
    shown = show(tasks, adapters, language_model, tokenizer, rows_per_task=rows, seed=seed)
    if as_json:
        echo_json({"seed": seed, "rows": [asdict(row) for row in shown]})
        return
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
    typer.echo(
        "\nTry a sentence of your own:\n"
        '  t2l run "Answer with the last word" --input "the cat sat on the mat"\n'
        '  t2l generate "Answer with the last word" -o last-word   # a PEFT folder\n'
        "  t2l --help"
    )
