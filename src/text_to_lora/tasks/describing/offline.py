"""Paraphrases from templates over definition and labels, for those who have no endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import distinct_texts

_TEMPLATES: Final = (
    "Task: {sentence}.",
    "please {lower}",
    "{keywords}",
    "For every input, {lower}.",
    "Can you {lower}?",
    "{sentence}. Give the answer alone.",
    "Your job is this: {lower}.",
    "I need someone to do this for each text: {lower}.",
    "Input: one text. Rule: {lower}. Output: the answer and nothing else.",
    "The model gets a text. It has to do the following: {lower}.",
)
_WITH_LABELS: Final = (
    "{sentence}. Possible answers: {labels}.",
    "Which one is it: {labels}? {sentence}.",
    "{keywords}: {labels}",
    "Choose one of {labels}. {sentence}.",
    "Labels: {labels}. For each text, {lower}.",
    "{first}. Reply with {either}.",
)
_SMALL_WORDS: Final = re.compile(
    r"\b(an?|and|are|as|at|be|by|for|from|give|given|if|in|is|its?|of|on|one|or|read|the|that|this|to"
    r"|what|whether|which|with|your?)\b"
)


def paraphrases(task: Task, count: int) -> list[str]:
    """Give up to `count` texts that differ from the definition in their frame alone."""
    return [text for text in distinct_texts(_all(task)) if text != task.definition][:count]


def _all(task: Task) -> Iterator[str]:
    sentence = task.definition.rstrip(" .")
    labels = task.metric.labels
    is_name = re.match(r"[A-Z][A-Z]|I\b", sentence)
    words = dict.fromkeys(re.findall(r"[^\W_]+", _SMALL_WORDS.sub("", sentence.casefold())))
    fields = {
        "sentence": sentence,
        "first": re.split(r"(?<=\w)[.?!]\s", sentence)[0],
        "lower": sentence if is_name else sentence[:1].lower() + sentence[1:],
        "keywords": " ".join(words),
        "labels": ", ".join(labels),
        "either": " or ".join(labels),
    }
    for place, template in enumerate(_TEMPLATES):
        if labels and place < len(_WITH_LABELS):
            yield _WITH_LABELS[place].format(**fields)
        yield template.format(**fields)
