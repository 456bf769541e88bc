"""Many wordings of one instruction: templates with alternatives and slots, and sentence frames.

`[a|b|]` is a choice (here the empty one too), `%name` a choice that many templates share,
`<name>` a slot, `<Name>` the same with a capital first letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.texts import load_texts

FRAMES: dict[str, tuple[str, ...]] = {
    name: tuple(frames) for name, frames in load_texts("frames").items() if name != "shared"
}
"""Sentence frames around a slot.

noun: `<np>`, a noun phrase ("first word"); verb: `<vp>`, an order ("copy the text in capitals")
condition: `<cond>`, and the words for its two outcomes, `<yes>` and `<no>`
style: `<task>`, the sentences of a task, and `<style>`, the form of its answer
"""

SHARED: dict[str, str] = load_texts("frames")["shared"]
"""Choices that many frames use, by name."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SHARED = re.compile(r"%([a-z]+)")
_SLOT = re.compile(r"<([A-Za-z]+)>")


def wordings(
    templates: Sequence[str],
    rng: Random,
    *,
    count: int,
    phrases: Mapping[str, Sequence[str]] | None = None,
    values: Mapping[str, str | list[str]] | None = None,
) -> tuple[str, ...]:
    """Draw up to `count` distinct texts, spread evenly over the templates.

    phrases: for a slot, the templates to choose from; values: for a slot, its text as it is, or a
    list of texts to choose from
    """
    texts: dict[str, None] = {}
    order: list[str] = []
    for _ in range(4 * count):
        if not order:
            order = rng.sample(templates, len(templates))
        texts[_expand(order.pop(), rng, phrases or {}, values or {})] = None
        if len(texts) == count:
            break
    return tuple(texts)


def _expand(
    template: str,
    rng: Random,
    phrases: Mapping[str, Sequence[str]],
    values: Mapping[str, str | list[str]],
) -> str:
    def phrase(match: re.Match[str]) -> str:
        name = match[1].lower()
        if name not in phrases:
            return match[0]
        text = choose(rng.choice(phrases[name]), rng)
        return text if match[1] == name else text[:1].upper() + text[1:]

    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text if isinstance(text, str) else rng.choice(text)

    return _SLOT.sub(value, _SLOT.sub(phrase, choose(template, rng)))


def choose(template: str, rng: Random) -> str:
    """Draw one of the alternatives at every choice of a template; slots stay."""
    text = _SHARED.sub(lambda match: SHARED[match[1]], template)
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text
