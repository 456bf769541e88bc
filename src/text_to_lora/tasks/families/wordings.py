"""Many wordings of one instruction: templates with alternatives and slots, typed with or without care.

`[a|b|]` is a choice (here the empty one too), `%name` a choice that many templates share,
`<name>` a slot, `<Name>` the same with a capital first letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, FamilyTexts, Split, load_texts

FRAMES: dict[str, list[str]] = load_texts("frames")["frames"]
"""Sentence frames around a slot.

noun: `<np>`, a noun phrase ("first word"); verb: `<vp>`, an order ("copy the text in capitals")
condition: `<cond>`, and the words for its two outcomes, `<yes>` and `<no>`
style: `<task>`, the sentences of a task, and `<style>`, the form of its answer
"""

SHARED: dict[str, str] = load_texts("frames")["shared"]
"""Choices that many frames use, by name."""

Values = Mapping[str, str | Sequence[str]]
"""For a slot its text, which stays as it is, or texts to choose from."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SHARED = re.compile(r"%([a-z]+)")
_SLOT = re.compile(r"<([A-Za-z0-9]+)>")


def wordings(
    templates: Sequence[str],
    rng: Random,
    *,
    count: int = DESCRIPTIONS_PER_TASK,
    phrases: Mapping[str, Sequence[str]] | None = None,
    values: Values | None = None,
) -> tuple[str, ...]:
    """Draw up to `count` distinct texts, spread evenly over the templates.

    phrases: for a slot, the templates to choose from
    """
    slot_phrases = phrases or {}

    def phrase(match: re.Match[str]) -> str:
        name = match[1].lower()
        if name not in slot_phrases:
            return match[0]
        text = choose(rng.choice(slot_phrases[name]), rng)
        return text if match[1] == name else text[:1].upper() + text[1:]

    def write(template: str) -> str:
        return _fill(_SLOT, _SLOT.sub(phrase, choose(template, rng)), values or {}, rng)

    return _distinct(templates, rng, count, write)


def describe(texts: FamilyTexts, rng: Random, split: Split, values: Values) -> tuple[str, ...]:
    """Draw distinct descriptions of a family in the manner in which people type them.

    texts: holds `wordings` and `validation_wordings`
    """
    templates = texts["wordings"] + (texts["validation_wordings"] if split == "validation" else [])

    def write(template: str) -> str:
        text = choose(template, rng)
        # A slot that holds wording of its own is filled first, so that it is careless too.
        while "<cond>" in text or "<choices>" in text:
            text = _fill(re.compile(r"<(cond|choices)>"), text, values, rng)
        return _fill(_SLOT, careless(text, rng), values, rng)

    return _distinct(templates, rng, DESCRIPTIONS_PER_TASK, write)


def choose(template: str, rng: Random) -> str:
    """Draw one of the alternatives at every choice of a template; slots stay."""
    text = _SHARED.sub(lambda match: SHARED[match[1]], template)
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text


def careless(template: str, rng: Random) -> str:
    """Give a description as somebody might type it; slots in angle brackets stay as they are."""
    phrases = load_texts("descriptions")
    place = rng.random()
    if place < 0.06:
        template = rng.choice(phrases["polite_openings"]) + template
    elif place < 0.12:
        template = rng.choice(phrases["long_openings"]) + template
    elif place < 0.24:
        template += "" if template[-1] in ".?!\"'" else "."
        template += rng.choice(phrases["polite_endings" if place < 0.18 else "long_endings"])
    if rng.random() < 0.3:
        template = _outside_slots(template, str.lower)
    elif not template.startswith("<"):
        template = template[:1].upper() + template[1:]
    if rng.random() < 0.3:
        template = template.removesuffix(".")
    if rng.random() < 0.12:
        template = _outside_slots(template, lambda text: _misspelt(text, rng))
    return template


def _distinct(
    templates: Sequence[str], rng: Random, count: int, write: Callable[[str], str]
) -> tuple[str, ...]:
    """Write distinct texts; every template comes once before one comes again."""
    texts: dict[str, None] = {}
    order: list[str] = []
    for _ in range(4 * count):
        if not order:
            order = rng.sample(templates, len(templates))
        texts[write(order.pop())] = None
        if len(texts) == count:
            break
    return tuple(texts)


def _fill(slot: re.Pattern[str], text: str, values: Values, rng: Random) -> str:
    def value(match: re.Match[str]) -> str:
        drawn = values[match[1]]
        return drawn if isinstance(drawn, str) else rng.choice(drawn)

    return slot.sub(value, text)


def _outside_slots(template: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(<[a-z0-9]+>)", template)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def _misspelt(text: str, rng: Random) -> str:
    """Spell about one word in six wrong: two letters exchanged, one left out, or one doubled."""

    def spell(match: re.Match[str]) -> str:
        word = match[0]
        place = rng.randrange(1, len(word) - 1)
        fault = rng.randrange(18)
        if fault == 0:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        if fault == 1:
            return word[:place] + word[place + 1 :]
        return word[:place] + word[place] + word[place:] if fault == 2 else word

    return re.sub(r"[A-Za-z]{4,}", spell, text)
