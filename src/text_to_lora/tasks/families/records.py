"""Families that ask for one field, line or item of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from text_to_lora.tasks.families.family import (
    Draft,
    Family,
    FamilyTexts,
    MakeDraft,
    SyntheticRow,
    families_of,
    load_texts,
)
from text_to_lora.tasks.families.operations import ORDINALS, longest, noun_wordings
from text_to_lora.tasks.families.source import EXAMPLES_PER_TASK, Source, Text

SEPARATORS = (", ", "; ", " | ", " / ", "\n", " - ")


def _field(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    """Ask for one field of a real task's inputs."""
    if not source.records:
        return None
    task, names, rows = rng.choice(source.records)
    place = rng.randrange(len(names))
    phrases = list(texts["phrases"])
    if place < len(ORDINALS):
        phrases += texts["numbered_phrases"]
    values = {"field": names[place], "nth": ORDINALS[min(place, len(ORDINALS) - 1)]}
    answered = [
        (example.input, (fields[place],), example.idx % 10)
        for example, fields in rng.sample(rows, len(rows))
        if len(fields[place].split()) <= 15
    ]
    return Draft(noun_wordings(phrases, values, rng), source.limit(answered), origin=task)


def _invented_field(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    """Ask for one of several lines that are named, in any order."""
    names = rng.sample(load_texts("parameters")["field_names"], rng.randint(2, 4))
    rows = []
    for group, digit in _groups(rng, source, len(names)):
        fields = rng.sample(list(zip(names, group, strict=True)), len(names))
        lines = [f"{name}: {text.text}" for name, text in fields]
        rows.append(("\n".join(lines), (group[0].text,), digit))
    return Draft(noun_wordings(texts["phrases"], {"field": names[0]}, rng), rows)


def _line(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    """Ask for one of several lines by its number."""
    count = rng.randint(2, 4)
    place = rng.randrange(count)
    rows = [
        ("\n".join(text.text for text in group), (group[place].text,), digit)
        for group, digit in _groups(rng, source, count)
    ]
    return Draft(noun_wordings(texts["phrases"], _numbered(place), rng), rows)


def _item(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    """Ask for one item of a list by its number."""
    place = rng.randrange(5)
    rows = _lists(rng, source, place + 1, lambda items: items[place])
    return Draft(noun_wordings(texts["phrases"], _numbered(place), rng), rows)


def _of_list(least: int, choose: Callable[[Sequence[str]], str | None]) -> MakeDraft:
    """Ask for what `choose` gives of a list of `least` items or more."""

    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
        rows = _lists(rng, source, least, choose)
        return Draft(noun_wordings(texts["phrases"], {}, rng), rows)

    return make


def _numbered(place: int) -> dict[str, str]:
    return {"n": str(place + 1), "nth": ORDINALS[place]}


def _groups(rng: Random, source: Source, count: int) -> list[tuple[list[Text], int]]:
    """Draw groups of short texts, each wholly of training or wholly of validation inputs."""
    groups = []
    short = [text for text in source.texts if len(text.words) <= 10]
    for held_out in (False, True):
        texts = [text for text in short if (text.digit == 9) == held_out]
        num_groups = EXAMPLES_PER_TASK // (8 if held_out and source.split == "train" else 1)
        if len(texts) >= 2 * count:
            groups += [
                (rng.sample(texts, count), 9 if held_out else place % 9)
                for place in range(num_groups)
            ]
    return source.limit(groups)


def _lists(
    rng: Random, source: Source, least: int, choose: Callable[[Sequence[str]], str | None]
) -> list[SyntheticRow]:
    """Draw rows of listed words, `least` to `least` + 3 of them, with one separator."""
    separator = rng.choice(SEPARATORS)
    rows: dict[str, SyntheticRow] = {}
    for place in range(EXAMPLES_PER_TASK):
        items = rng.sample(source.vocabulary, rng.randint(max(least, 2), least + 3))
        if answer := choose(items):
            text = separator.join(items)
            rows[text] = (text, (answer,), place % 10 if source.split == "train" else 9)
    return list(rows.values())


RECORD_FAMILIES: tuple[Family, ...] = families_of(
    "records",
    {
        "field": _field,
        "made_field": _invented_field,
        "line": _line,
        "item": _item,
        "last_item": _of_list(2, lambda items: items[-1]),
        "longest_item": _of_list(3, longest),
        "first_item_by_alphabet": _of_list(2, min),
        "count_items": _of_list(1, lambda items: str(len(items))),
    },
)
