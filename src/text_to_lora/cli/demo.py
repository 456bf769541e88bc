"""t2l demo: the embedded default on tasks that no training saw."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from text_to_lora.cli import common

if TYPE_CHECKING:
    from text_to_lora.demo.show import Shown

Answers = tuple[str, str, str, str]
"""An input, the answer that is expected, and the answers before and after."""


def demo(
    model: common.Model = "embedded",
    base: common.Base = None,
    rows: Annotated[int, Option(min=1, help="Rows shown a task.")] = 3,
    seed: Annotated[int, Option(help="Draws the rows.")] = 0,
    refine_seconds: Annotated[
        float, Option(min=0, help="Most seconds of refining at the end; 0 for none.")
    ] = 30.0,
    as_json: common.AsJson = False,
) -> None:
    """Generate adapters for descriptions that no training saw and show answers before and after.

    The descriptions and rows were written for this demonstration; misses are shown. At the end an
    adapter is refined on 16 rows of a task whose labels no sentence tells.

    \b
    Examples:
      t2l demo
      t2l demo --seed 7 --rows 5
    """
    from text_to_lora.demo.show import demo_tasks, show, show_refinement

    tasks = demo_tasks()
    common.note("loading the hypernetwork and the base model")
    t2l, *_ = common.load_model_and_base(model, base)
    started = time.perf_counter()
    adapters = t2l.generate([task.description for task in tasks])
    common.note(
        f"{len(tasks)} adapters in {time.perf_counter() - started:.2f} s, text encoder included"
    )
    common.note("answering with and without the adapters")
    shown = show(t2l, tasks, adapters, rows_per_task=rows, seed=seed)
    refinement = None
    if refine_seconds:
        common.note(f"refining one adapter on 16 rows, at most {refine_seconds:g} s")
        refinement = show_refinement(t2l, seconds=refine_seconds)
    if as_json:
        refined = None if refinement is None else asdict(refinement)
        common.echo_json(
            {"seed": seed, "rows": [asdict(row) for row in shown], "refinement": refined}
        )
        return
    echo(f"rows drawn with seed {seed}; the base sees the input alone\n")
    for description, group in groupby(shown, key=lambda row: row.description):
        echo(f'"{description}"')
        _print_answers(map(_answers, group), "base", "adapted")
        echo("")
    _print_counts(map(_answers, shown), "base", "adapted")
    if refinement is not None:
        pairs = zip(refinement.rows, refinement.before, refinement.after, strict=True)
        answers = [(*row, before, after) for row, before, after in pairs]
        echo(f'\n"{refinement.description}", the sentence alone and refined on 16 rows')
        _print_answers(answers, "sentence", "refined")
        _print_counts(answers, "sentence", "refined")
    echo(
        "\nTry a sentence of your own:\n"
        '  t2l run "Answer with the last word" --input "the cat sat on the mat"\n'
        '  t2l generate "Answer with the last word" -o last-word   # a PEFT folder\n'
        "  t2l --help"
    )


def _answers(row: Shown) -> Answers:
    return row.input, row.expected, row.base, row.adapted


def _print_answers(rows: Iterable[Answers], first: str, second: str) -> None:
    """Print rows with their two answers; first, second: whose answers these are."""
    for text, expected, before, after in rows:
        echo(f"  {'right' if after == expected else 'MISS '}  {text}")
        echo(f"         {first} {before!r}  {second} {after!r}  is {expected!r}")


def _print_counts(rows: Iterable[Answers], first: str, second: str) -> None:
    """Print how many of both answers are right, spelling and case included."""
    right = [(before == expected, after == expected) for _, expected, before, after in rows]
    counts = [sum(column) for column in zip(*right, strict=True)]
    echo(f"right: {first} {counts[0]} of {len(right)}, {second} {counts[1]} of {len(right)}")
