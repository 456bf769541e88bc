"""Families that ask whether a condition on a text holds, in two words that the description gives."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Draft, Family
from text_to_lora.tasks.families.source import Source, Text, pick_rows
from text_to_lora.tasks.families.text import (
    Parameters,
    Values,
    no_parameters,
    one_common_word,
    one_letter,
)
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import FRAMES, wordings
from text_to_lora.tasks.task import Metric

_TEXTS = load_texts("conditions")


def _condition(
    name: str,
    holds: Callable[[Text, Values], bool],
    parameters: Parameters = no_parameters,
) -> Family:
    phrases = _TEXTS[name]["phrases"]

    def make(rng: Random, source: Source) -> Draft:
        yes, no = source.yes_no(rng)
        values = {**parameters(rng, source), "yes": yes, "no": no}
        return Draft(
            wordings(
                FRAMES["condition"],
                rng,
                count=DESCRIPTIONS_PER_TASK,
                phrases={"cond": phrases},
                values=values,
            ),
            pick_rows(rng, source, lambda text: yes if holds(text, values) else no, balance=True),
            Metric("classification", (yes, no)),
        )

    return Family.described(name, _TEXTS[name], make)


CONDITION_FAMILIES: tuple[Family, ...] = (
    _condition(
        "contains_letter",
        lambda t, v: v["letter"] in t.text.lower(),
        lambda rng, source: {"letter": rng.choice("bcdfghklmpuvwyxjz")},
    ),
    _condition("contains_word", lambda t, v: v["word"] in map(str.lower, t.words), one_common_word),
    _condition(
        "longer_than",
        lambda t, v: len(t.words) > int(v["n"]),
        lambda rng, source: {"n": str(rng.randint(5, 16))},
    ),
    _condition(
        "starts_with_letter",
        lambda t, v: t.words[0][0].lower() < v["letter"],
        one_letter("fghijklmnopqrst"),
    ),
    _condition(
        "ends_with_letter",
        lambda t, v: t.words[-1][-1].lower() == v["letter"],
        one_letter("desnrty"),
    ),
    _condition("first_word_longer", lambda t, v: len(t.words[0]) > len(t.words[-1])),
    _condition(
        "ends_with_mark",
        lambda t, v: t.text[-1] == {"full stop": ".", "question mark": "?"}[v["name"]],
        lambda rng, source: {"name": rng.choice(("full stop", "question mark"))},
    ),
)
