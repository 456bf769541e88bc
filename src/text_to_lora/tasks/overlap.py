"""Whether training data repeats held-out data: equal inputs and equal descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from text_to_lora.tasks.task import Task


@dataclass(frozen=True)
class Overlap:
    """A text that a training task and a held-out task share; `exact` is False where case, spaces
    or punctuation differ."""

    kind: Literal["input", "description"]
    task: str
    held_out_task: str
    text: str
    exact: bool


def normalize(text: str) -> str:
    """Give the words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def find_overlaps(
    tasks: Iterable[Task], held_out: Iterable[Task], *, min_words: int = 1
) -> list[Overlap]:
    """List what training tasks share with held-out tasks, one entry for each text of a task.

    min_words: shorter texts are passed over; single words are equal by chance, in words
    """
    known: dict[tuple[Literal["input", "description"], str], tuple[str, str]] = {}
    for task in held_out:
        for kind, text in _texts(task):
            known.setdefault((kind, normalize(text)), (task.name, text))
    overlaps = []
    for task in tasks:
        for kind, text in dict.fromkeys(_texts(task)):
            key = normalize(text)
            if key and len(key.split()) >= min_words and (kind, key) in known:
                name, original = known[kind, key]
                overlaps.append(Overlap(kind, task.name, name, text, text == original))
    return overlaps


def _texts(task: Task) -> Iterable[tuple[Literal["input", "description"], str]]:
    for description in task.descriptions:
        yield "description", description
    for example in task.examples:
        yield "input", example.input
