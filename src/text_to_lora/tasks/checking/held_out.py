"""Rows of training tasks that evaluation sets have too: equal inputs, and rare runs of ten words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import plain_words

NUM_WORDS: Final = 10
_MAX_ROWS: Final = 10  # of the evaluation sets; a run of words in more of them is of their template
_MIN_WORDS: Final = 4  # shorter inputs are equal by chance


@dataclass(frozen=True)
class HeldOutOverlap:
    """What one task shares with evaluation sets.

    equal, similar: `idx` of rows with an equal input, and of others that share a rare run of ten words
    descriptions: that an evaluation set has too; held_out_tasks: the tasks that have all this
    """

    equal: set[int] = field(default_factory=set)
    similar: set[int] = field(default_factory=set)
    descriptions: set[str] = field(default_factory=set)
    held_out_tasks: set[str] = field(default_factory=set)

    @property
    def rows(self) -> set[int]:
        """Indices of all rows at fault."""
        return self.equal | self.similar


def find_held_out(tasks: Sequence[Task], held_out: Sequence[Task]) -> dict[str, HeldOutOverlap]:
    """Find what tasks share with evaluation sets, by the names of the tasks that share anything.

    Texts are equal whatever their case, spaces and punctuation.
    """
    inputs = _owners((task, [row.input for row in task.examples]) for task in held_out)
    descriptions = _owners((task, task.descriptions) for task in held_out)
    rare = _rare_runs(held_out)
    overlaps: dict[str, HeldOutOverlap] = {}
    for task in tasks:
        overlap = HeldOutOverlap()
        for text in task.descriptions:
            if owner := descriptions.get(plain_words(text)):
                overlap.descriptions.add(text)
                overlap.held_out_tasks.add(owner)
        for row in task.examples:
            if owner := inputs.get(plain_words(row.input)):
                overlap.equal.add(row.idx)
            elif owner := next((rare[run] for run in _runs(row.input) if run in rare), None):
                overlap.similar.add(row.idx)
            overlap.held_out_tasks.update([owner] if owner else [])
        if overlap.held_out_tasks:
            overlaps[task.name] = overlap
    return overlaps


def drop_held_out(
    tasks: Iterable[Task], overlaps_by_task: Mapping[str, HeldOutOverlap]
) -> list[Task]:
    """Give the tasks without the rows and descriptions at fault; tasks that lose all are left out."""
    cleaned = []
    for task in tasks:
        entry = overlaps_by_task.get(task.name, HeldOutOverlap())
        rows = tuple(row for row in task.examples if row.idx not in entry.rows)
        texts = tuple(text for text in task.descriptions if text not in entry.descriptions)
        if rows and texts:
            cleaned.append(replace(task, definition=texts[0], descriptions=texts, examples=rows))
    return cleaned


def _owners(texts: Iterable[tuple[Task, Iterable[str]]]) -> dict[str, str]:
    """The first task that has each text of `_MIN_WORDS` words or more, by the normalized text."""
    owners: dict[str, str] = {}
    for task, of_task in texts:
        for words in map(plain_words, of_task):
            if words.count(" ") >= _MIN_WORDS - 1:
                owners.setdefault(words, task.name)
    return owners


def _rare_runs(held_out: Iterable[Task]) -> dict[int, str]:
    """Hashes of the runs of words that few rows have, with a task of theirs."""
    counts: Counter[int] = Counter()
    owners: dict[int, str] = {}
    for task in held_out:
        for text in {row.input for row in task.examples}:
            runs = set(_runs(text))
            counts.update(runs)
            owners.update(dict.fromkeys(runs, task.name))
    return {run: owners[run] for run, count in counts.items() if count <= _MAX_ROWS}


def _runs(text: str) -> Iterator[int]:
    words = plain_words(text).split()
    for start in range(len(words) - NUM_WORDS + 1):
        yield hash(tuple(words[start : start + NUM_WORDS]))
