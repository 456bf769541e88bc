"""Families that ask for one field, line or item of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.family import (
    DESCRIPTIONS_PER_TASK,
    Draft,
    Family,
    SyntheticRow,
)
from text_to_lora.tasks.families.source import EXAMPLES_PER_TASK, Source, Text
from text_to_lora.tasks.families.text import ORDINALS, longest
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import FRAMES, wordings
from text_to_lora.tasks.task import Task

# fmt: off
FIELD_NAMES = (
    "Left", "Right", "Name", "Note", "Title", "Comment", "Subject", "Message", "Remark", "Entry",
    "Key", "Value", "Alpha", "Beta", "Mail", "Memo", "Front", "Back", "Top", "Bottom", "Old", "New",
    "Source", "Target", "Before", "After", "Morning", "Evening", "Hint", "Plan",
)
# fmt: on

_TEXTS = load_texts("records")


def _field(rng: Random, source: Source) -> Draft | None:
    if not source.records:
        return None
    task, names, rows = rng.choice(source.records)
    place = rng.randrange(len(names))
    phrases = list(_TEXTS["field"]["phrases"])
    if place < len(ORDINALS):
        phrases += _TEXTS["field"]["numbered_phrases"]
    return _nouns(
        rng,
        phrases,
        {"field": names[place], "nth": ORDINALS[min(place, len(ORDINALS) - 1)]},
        source.limit(
            [
                (example.input, (values[place],), example.idx % 10)
                for example, values in rng.sample(rows, len(rows))
                if len(values[place].split()) <= 15
            ]
        ),
        origin=task,
    )


def _made_field(rng: Random, source: Source) -> Draft:
    names = rng.sample(FIELD_NAMES, rng.randint(2, 4))
    rows = []
    for texts, digit in _groups(rng, source, len(names)):
        lines = [
            f"{name}: {text.text}"
            for name, text in rng.sample(list(zip(names, texts, strict=True)), len(names))
        ]
        rows.append(("\n".join(lines), (texts[0].text,), digit))
    return _nouns(rng, _TEXTS["made_field"]["phrases"], {"field": names[0]}, rows)


def _line(rng: Random, source: Source) -> Draft:
    count = rng.randint(2, 4)
    place = rng.randrange(count)
    rows = [
        ("\n".join(text.text for text in texts), (texts[place].text,), digit)
        for texts, digit in _groups(rng, source, count)
    ]
    return _nouns(
        rng, _TEXTS["line"]["phrases"], {"n": str(place + 1), "nth": ORDINALS[place]}, rows
    )


def _item(rng: Random, source: Source) -> Draft:
    place = rng.randrange(5)
    rows = _lists(rng, source, place + 1, lambda items: items[place])
    return _nouns(
        rng, _TEXTS["item"]["phrases"], {"n": str(place + 1), "nth": ORDINALS[place]}, rows
    )


def _last_item(rng: Random, source: Source) -> Draft:
    return _nouns(
        rng, _TEXTS["last_item"]["phrases"], {}, _lists(rng, source, 2, lambda items: items[-1])
    )


def _longest_item(rng: Random, source: Source) -> Draft:
    return _nouns(rng, _TEXTS["longest_item"]["phrases"], {}, _lists(rng, source, 3, longest))


def _first_item_by_alphabet(rng: Random, source: Source) -> Draft:
    return _nouns(rng, _TEXTS["first_item_by_alphabet"]["phrases"], {}, _lists(rng, source, 2, min))


def _count_items(rng: Random, source: Source) -> Draft:
    return _nouns(
        rng,
        _TEXTS["count_items"]["phrases"],
        {},
        _lists(rng, source, 1, lambda items: str(len(items))),
    )


def _nouns(
    rng: Random,
    phrases: Sequence[str],
    values: Mapping[str, str],
    rows: Sequence[SyntheticRow],
    origin: Task | None = None,
) -> Draft:
    return Draft(
        wordings(
            FRAMES["noun"],
            rng,
            count=DESCRIPTIONS_PER_TASK,
            phrases={"np": phrases},
            values=dict(values),
        ),
        rows,
        origin=origin,
    )


def _groups(rng: Random, source: Source, count: int) -> list[tuple[list[Text], int]]:
    """Draw groups of short texts, each wholly of training or wholly of validation inputs."""
    groups = []
    short = [text for text in source.texts if len(text.words) <= 10]
    for held_out in (False, True):
        texts = [text for text in short if (text.digit == 9) == held_out]
        wanted = EXAMPLES_PER_TASK // (8 if held_out and source.split == "train" else 1)
        if len(texts) >= 2 * count:
            groups += [
                (rng.sample(texts, count), 9 if held_out else place % 9) for place in range(wanted)
            ]
    return source.limit(groups)


def _lists(
    rng: Random, source: Source, least: int, choose: Callable[[Sequence[str]], str | None]
) -> list[SyntheticRow]:
    """Draw rows of listed words, `least` to `least` + 3 of them, with one separator."""
    separator = rng.choice((", ", "; ", " | ", " / ", "\n", " - "))
    rows: dict[str, SyntheticRow] = {}
    for place in range(EXAMPLES_PER_TASK):
        items = rng.sample(source.vocabulary, rng.randint(max(least, 2), least + 3))
        answer = choose(items)
        if answer:
            text = separator.join(items)
            rows[text] = (text, (answer,), place % 10 if source.split == "train" else 9)
    return list(rows.values())


RECORD_FAMILIES: tuple[Family, ...] = tuple(
    Family.described(name, _TEXTS[name], make)
    for name, make in {
        "field": _field,
        "made_field": _made_field,
        "line": _line,
        "item": _item,
        "last_item": _last_item,
        "longest_item": _longest_item,
        "first_item_by_alphabet": _first_item_by_alphabet,
        "count_items": _count_items,
    }.items()
)
