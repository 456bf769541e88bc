"""What a language model is asked: to describe a task in many forms, and to tell tasks apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from text_to_lora.tasks.describing.endpoint import Messages
from text_to_lora.tasks.task import Example, Task

NUM_SHOWN: Final = 5  # rows of a task that the model sees
NUM_CANDIDATES: Final = 10
PER_REQUEST: Final = 16  # descriptions; longer lists become repetitive
TOKENS_PER_DESCRIPTION: Final = 30  # for estimates

_FORMS: Final = (
    "a command",
    "a question",
    "keywords without a sentence",
    "a request to a colleague",
    "a specification of input, output and rule",
    "a message typed in a hurry, in lower case",
    "a sentence about what the model has to do ('The model ...')",
)
_LENGTHS: Final = ("at most 8 words", "10 to 20 words", "30 to 60 words")
_MAX_CHARS: Final = 400  # of an input that is shown

DESCRIPTIONS_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"descriptions": {"type": "array", "items": {"type": "string"}}},
    "required": ["descriptions"],
    "additionalProperties": False,
}
CHOICE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"candidate": {"type": "integer"}},
    "required": ["candidate"],
    "additionalProperties": False,
}
_WRITER: Final = (
    "You describe tasks for a language model. Each description has to tell a reader who sees nothing "
    "else what to do with an input and what the answer looks like. Write as different people would. "
    "Never quote the examples, and never name an answer that is not a label. Reply with JSON alone: "
    '{"descriptions": ["...", "..."]}'
)
_JUDGE: Final = (
    "You are given a description and numbered candidate tasks. Reply with the number of the task that "
    'the description is of, as JSON alone: {"candidate": 1}'
)


def shown_rows(task: Task) -> list[Example]:
    """The rows that the model sees of a task: of those trained on, drawn by the task's name."""
    rows = task.training() or task.examples
    return Random(task.name).sample(rows, min(NUM_SHOWN, len(rows)))


def ask_descriptions(task: Task, start: int, count: int) -> Messages:
    """Ask for descriptions in the forms from number `start` on."""
    forms = [_form(place, bool(task.metric.labels)) for place in range(start, start + count)]
    labels = f"Labels: {', '.join(task.metric.labels)}\n" if task.metric.labels else ""
    rows = "\n".join(_show(row) for row in shown_rows(task))
    wanted = "\n".join(f"{place}. {form}" for place, form in enumerate(forms, 1))
    text = (
        f"Name: {task.name}\nDefinition: {task.definition}\n{labels}Examples:\n{rows}\n\n"
        f"Write {count} descriptions of this task, in this order:\n{wanted}"
    )
    return [{"role": "system", "content": _WRITER}, {"role": "user", "content": text}]


def ask_choice(description: str, task: Task, others: Sequence[Task]) -> tuple[Messages, int]:
    """Ask which of ten tasks a description is of; gives the number of the right one, too."""
    rng = Random(f"{task.name}/{description}")
    candidates = [task, *rng.sample(others, min(NUM_CANDIDATES - 1, len(others)))]
    rng.shuffle(candidates)
    listed = "\n\n".join(
        f"{place}. {candidate.definition}\n{_show(shown_rows(candidate)[0])}"
        for place, candidate in enumerate(candidates, 1)
    )
    text = f"Description: {description}\n\n{listed}"
    messages = [{"role": "system", "content": _JUDGE}, {"role": "user", "content": text}]
    return messages, candidates.index(task) + 1


def _form(place: int, has_labels: bool) -> str:
    # 7 forms, 3 lengths and 2 ways with labels have no common divisor, so that all meet
    parts = [_FORMS[place % len(_FORMS)], _LENGTHS[place % len(_LENGTHS)]]
    if has_labels:
        parts.append("names every label" if place % 2 == 0 else "names no label")
    return ", ".join(parts)


def _show(row: Example) -> str:
    text = row.input if len(row.input) <= _MAX_CHARS else f"{row.input[:_MAX_CHARS]}..."
    return json.dumps({"input": text, "answer": row.outputs[0][:_MAX_CHARS]}, ensure_ascii=False)
