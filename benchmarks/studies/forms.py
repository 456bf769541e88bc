"""Does an adapter follow its description? One task's description in other sources, forms, lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.task import Task

KEYWORDS = 12
"""Most words of the keyword form."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(\[])")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_STOP_WORDS = (
    "a an and any are as at be been but by can could do does each every for from given has have he "
    "her his how i if in into is it its may must need no not of on or our out should so some such "
    "task tasks than that the their them then there these they this those to up was we were what "
    "when where whether which while who will with would you your"
)
_MORE = (
    "Read the whole input carefully before you answer, and think about what it asks of you. "
    "Your answer should be given in the form that was asked for, on one line, with no explanation "
    "and with nothing before it or after it. Every input is to be treated alike, whatever it is "
    "about and however long it is."
)


def one_line(task: Task) -> str:
    """The first sentence of the definition."""
    return _sentences(task.definition)[0]


def paragraph(task: Task) -> str:
    """The definition, and four sentences that say nothing about the task: length alone."""
    return f"{_closed(task.definition)} {_MORE}"


def keywords(task: Task) -> str:
    """The first words of the definition that are not stop words, each once, with commas.

    Raises ConfigError when there is none.
    """
    words = (word.casefold() for word in _WORD.findall(task.definition))
    stop = frozenset(_STOP_WORDS.split())
    keywords_in_order = list(dict.fromkeys(word for word in words if word not in stop))[:KEYWORDS]
    if not keywords_in_order:
        raise ConfigError(
            f"task {task.name!r} has no word for a list of keywords in its definition "
            f"{task.definition!r}; leave it out"
        )
    return ", ".join(keywords_in_order)


def with_labels(task: Task) -> str:
    """The definition without its label names, and one sentence that lists them."""
    return f"{_closed(without_labels(task))} Answer with one of: {', '.join(task.metric.labels)}."


def without_labels(task: Task) -> str:
    """The definition with every label name struck out, and the quotes that stood around it."""
    text = task.definition
    for label in sorted(task.metric.labels, key=len, reverse=True):
        name = rf"(?<!\w){re.escape(label)}(?!\w)"
        text = re.sub(rf"(?:\"{name}\"|'{name}'|`{name}`|{name})", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text).strip()
    return text or task.definition


FORMS: Mapping[str, Callable[[Task], str]] = MappingProxyType(
    {
        "one line": one_line,
        "paragraph": paragraph,
        "keywords": keywords,
        "label names listed": with_labels,
        "no label names": without_labels,
    }
)
"""Ways of writing a task's definition, made by rule: what is said stays as alike as they allow.

Source: Text-to-LoRA (arXiv 2506.06105), Table 5, varies where a description is from; forms are ours.
"""


def takes(form: str, task: Task) -> bool:
    """Tell whether a form makes sense of a task: those of labels need a set of up to 12 of them."""
    return "label names" not in form or 0 < len(task.metric.labels) <= 12


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text.strip())


def _closed(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
