"""Families whose description carries two to four arbitrary words for properties of the message."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from text_to_lora.tasks.families.descriptions import describe
from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Draft, Family
from text_to_lora.tasks.families.messages import Inputs, Message, Messages, plain_words
from text_to_lora.tasks.families.source import Source
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import choose
from text_to_lora.tasks.task import Metric

_TEXTS = load_texts("word_labels")

PROPERTIES = ("question", "question", "number", "longer", "vowel", "mentions", "request")
"""What may hold of a message, questions twice as often as the others."""


@dataclass(frozen=True)
class Property:
    """Something that holds of some messages.

    values: of the slots of its wordings; inputs: messages of which it holds often enough
    """

    name: str
    values: dict[str, str]
    holds: Callable[[Message], bool]
    inputs: Inputs


def _property(rng: Random, messages: Messages) -> Property:
    name = rng.choice(PROPERTIES)
    number = rng.randint(4, 7)
    target = rng.choice(list(messages.mentioned))
    holds: dict[str, Callable[[Message], bool]] = {
        "question": lambda message: message.kind == "question",
        "request": lambda message: message.kind == "request",
        "number": lambda message: bool(re.search(r"\d", message.text)),
        "longer": lambda message: len(message.words) > number,
        "vowel": lambda message: message.text[0].lower() in "aeiou",
        "mentions": lambda message: target in plain_words(message.text),
    }
    inputs = messages.sentences
    if name == "mentions":
        mentioning = messages.mentioned[target]
        inputs = Inputs([*mentioning, *rng.sample(inputs.all, 2 * len(mentioning))])
    return Property(name, {"n": str(number), "target": target}, holds[name], inputs)


def _two_labels(name: str, *, capitals: bool = False) -> Family:
    """Make a family that labels a message by whether it has a property.

    capitals: the description gives the labels in small letters and asks for capital ones
    """

    def make(rng: Random, source: Source) -> Draft:
        pool = source.pool
        yes, no = pool.words(rng, 2) if capitals else pool.labels(rng, 2)
        drawn = _property(rng, source.messages)
        phrases = [choose(text, rng) for text in _TEXTS["properties"][drawn.name]]
        values = {**drawn.values, "yes": yes, "no": no, "cond": phrases}
        labels = (yes.upper(), no.upper()) if capitals else (yes, no)
        return Draft(
            describe(_TEXTS[name], rng, source.split, values),
            source.messages.rows(
                rng,
                drawn.inputs,
                lambda message: labels[0] if drawn.holds(message) else labels[1],
                num_answers=2,
            ),
            Metric("classification", labels),
        )

    return Family.described(name, _TEXTS[name], make)


def _several_labels(rng: Random, source: Source) -> Draft:
    """Make a task that labels a message by its kind or by what it is about."""
    by_kind = rng.random() < 0.4
    phrases = _TEXTS["kinds" if by_kind else "topics"]
    chosen = rng.sample(list(phrases), 3 if by_kind else rng.randint(2, 4))
    label_of = dict(zip(chosen, source.pool.labels(rng, len(chosen)), strict=True))
    choices = []
    for _ in range(DESCRIPTIONS_PER_TASK):
        form = rng.randrange(3)
        frame = ("{} for {}", "{} if it is {}", "{} when {}")[form]
        parts = [
            frame.format(f"<l{place}>", phrases[name][form]) for place, name in enumerate(chosen)
        ]
        rng.shuffle(parts)
        choices.append(", ".join(parts[:-1]) + rng.choice((" and ", ", ", " or ")) + parts[-1])
    values = {f"l{place}": label_of[name] for place, name in enumerate(chosen)}
    return Draft(
        describe(_TEXTS["word_several_labels"], rng, source.split, {**values, "choices": choices}),
        source.messages.rows(
            rng,
            source.messages.sentences,
            lambda message: label_of.get(message.kind if by_kind else message.topic),
            num_answers=len(chosen),
        ),
        Metric("classification", tuple(label_of.values())),
    )


def _sentiment(rng: Random, source: Source) -> Draft:
    yes, no = source.pool.labels(rng, 2)
    return Draft(
        describe(_TEXTS["word_sentiment"], rng, source.split, {"yes": yes, "no": no}),
        source.messages.rows(
            rng,
            source.messages.opinions,
            lambda message: yes if message.kind == "good" else no,
            num_answers=2,
        ),
        Metric("classification", (yes, no)),
    )


WORD_LABELS = _two_labels("word_labels")
WORD_LABEL_FAMILIES: tuple[Family, ...] = (
    WORD_LABELS,
    _two_labels("word_capital_labels", capitals=True),
    Family.described("word_several_labels", _TEXTS["word_several_labels"], _several_labels),
    Family.described("word_sentiment", _TEXTS["word_sentiment"], _sentiment),
)
