"""A task whose labels no sentence tells: answers with the sentence's adapter, and refined on rows."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer

Row = tuple[str, str]


@dataclass(frozen=True)
class ShownRefinement:
    """Answers to rows that the refinement did not see.

    before: of the adapter of the description alone; after: of the refined adapter
    record: what provenance says of the refinement
    """

    description: str
    rows: tuple[Row, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    record: dict[str, Any]


def refine_task() -> tuple[str, tuple[Row, ...], tuple[Row, ...]]:
    """The description, the rows to refine on and the rows to show, written for the demonstration."""
    text = files("text_to_lora.demo").joinpath("refine.json").read_text(encoding="utf-8")
    entry = json.loads(text)
    rows, shown = (tuple((row[0], row[1]) for row in entry[key]) for key in ("rows", "shown"))
    return entry["description"], rows, shown


def show_refinement(
    t2l: TextToLora, *, seconds: float | None = 60.0, steps: int | None = None
) -> ShownRefinement:
    """Generate the adapter of the task's description, refine it, and answer the shown rows by both.

    seconds, steps: limits of the training, as for `TextToLora.refine`
    """
    description, rows, shown = refine_task()
    sentence_alone = t2l.generate([description])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the description of .* does not name")  # meant
        refined = t2l.refine([description], [rows], seconds=seconds, steps=steps)
    inputs = [text for text, _ in shown]
    before, after = (
        tuple(
            answer(
                *t2l.base,
                inputs,
                weights=adapters.weights,
                max_new_tokens=16,
                rows=[0] * len(inputs),
            )
        )
        for adapters in (sentence_alone, refined)
    )
    return ShownRefinement(
        description, shown, before, after, dict(refined.provenance[0]["refinement"])
    )
