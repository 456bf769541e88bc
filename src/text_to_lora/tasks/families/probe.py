"""Descriptions with unseen words, to count how many answers are exactly right."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from text_to_lora.tasks.families.family import load_texts
from text_to_lora.tasks.families.source import Source
from text_to_lora.tasks.families.wordings import describe
from text_to_lora.tasks.families.words import WORD_LABELS


@dataclass(frozen=True)
class Probe:
    """A description with an unseen word, an input, and the one right answer.

    kind: "constant", "label", "start" or "end"
    """

    kind: str
    description: str
    input: str
    answer: str


def word_probe(seed: int, count: int) -> list[Probe]:
    """Make probes of words that no task of training asks for; equal arguments give equal probes.

    Of eight probes, four ask for a constant of one word, two for one of two labels, one to start
    and one to end the message with a word.
    """
    kinds = ("constant", "label", "constant", "start", "constant", "label", "constant", "end")
    source = Source((), "validation", seed)
    return [
        _probe(kinds[place % len(kinds)], Random(f"{seed}/probe/{place}"), source)
        for place in range(count)
    ]


def _probe(kind: str, rng: Random, source: Source) -> Probe:
    if kind == "label":
        draft = WORD_LABELS.draft(rng, source)
        assert draft is not None
        text, (answer,), _ = rng.choice(draft.rows)
        return Probe(kind, rng.choice(draft.descriptions), text, answer)
    word = source.pool.word(rng)
    text = rng.choice(source.messages.short.all).text
    answers = {"constant": word, "start": f"{word} {text}", "end": f"{text} {word}"}
    descriptions = describe(load_texts("words")[f"word_{kind}"], rng, "validation", {"word": word})
    return Probe(kind, rng.choice(descriptions), text, answers[kind])
