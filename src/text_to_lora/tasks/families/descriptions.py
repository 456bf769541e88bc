"""Descriptions of the word families, in the manner in which people type them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Split
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import choose


def describe(
    texts: Mapping[str, Any],
    rng: Random,
    split: Split,
    values: Mapping[str, str | Sequence[str]],
) -> tuple[str, ...]:
    """Draw distinct descriptions of a family in the manner in which people type them.

    texts: the family's entry of a YAML file, with `wordings` and `validation_wordings`
    values: for a slot its text, which stays as it is, or texts to choose from
    """
    templates = texts["wordings"] + (texts["validation_wordings"] if split == "validation" else [])

    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text if isinstance(text, str) else rng.choice(text)

    descriptions: dict[str, None] = {}
    order: list[str] = []
    for _ in range(4 * DESCRIPTIONS_PER_TASK):
        if not order:
            order = rng.sample(templates, len(templates))
        template = choose(order.pop(), rng)
        # A slot that holds wording of its own is filled first, so that it is careless too.
        while "<cond>" in template or "<choices>" in template:
            template = re.sub(r"<(cond|choices)>", value, template)
        descriptions[re.sub(r"<([a-z0-9]+)>", value, careless(template, rng))] = None
        if len(descriptions) == DESCRIPTIONS_PER_TASK:
            break
    return tuple(descriptions)


def careless(template: str, rng: Random) -> str:
    """Give a description as somebody might type it; slots in angle brackets stay as they are."""
    phrases = load_texts("descriptions")
    kind = rng.random()
    if kind < 0.06:
        template = rng.choice(phrases["polite_openings"]) + template
    elif kind < 0.12:
        template = rng.choice(phrases["long_openings"]) + template
    elif kind < 0.24:
        template += "" if template[-1] in ".?!\"'" else "."
        template += rng.choice(phrases["polite_endings" if kind < 0.18 else "long_endings"])
    if rng.random() < 0.3:
        template = _outside_slots(template, str.lower)
    elif not template.startswith("<"):
        template = template[:1].upper() + template[1:]
    if rng.random() < 0.3:
        template = template.removesuffix(".")
    if rng.random() < 0.12:
        template = _outside_slots(template, lambda text: _misspelt(text, rng))
    return template


def _outside_slots(template: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(<[a-z0-9]+>)", template)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def _misspelt(text: str, rng: Random) -> str:
    """Spell about one word in six wrong: two letters exchanged, one left out, or one doubled."""

    def spell(match: re.Match[str]) -> str:
        word = match[0]
        place = rng.randrange(1, len(word) - 1)
        kind = rng.randrange(18)
        if kind == 0:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        if kind == 1:
            return word[:place] + word[place + 1 :]
        return word[:place] + word[place] + word[place:] if kind == 2 else word

    return re.sub(r"[A-Za-z]{4,}", spell, text)
