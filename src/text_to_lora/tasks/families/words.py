"""Families whose description carries the words of the answer, often rare or invented ones.

Constants, names, words to put around or into the message, and numbers. Only the description tells
what is asked, and words are kept for validation, so that copying has to be learnt and not a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.descriptions import describe
from text_to_lora.tasks.families.family import Draft, Family
from text_to_lora.tasks.families.messages import Message
from text_to_lora.tasks.families.source import Source
from text_to_lora.tasks.families.text import NUMBERS
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.word_labels import WORD_LABEL_FAMILIES
from text_to_lora.tasks.families.word_pool import WordPool

THINGS = ("cat", "dog", "boat", "car", "house", "school", "team", "river", "horse", "band", "shop")
GREETINGS = (
    "Welcome to <word>!",
    "Good morning from <word>!",
    "<word> at your service.",
    "Thank you for visiting <word>.",
    "Hello, this is <word>.",
)

_TEXTS = load_texts("words")

Values = Mapping[str, str | Sequence[str]]


def _family(name: str, make: Callable[[Random, Source], Draft]) -> Family:
    return Family.described(name, _TEXTS[name], make)


# The same answer to every message


def _always(name: str, draw: Callable[[Random, WordPool], tuple[Values, str]]) -> Family:
    """Make a family of constants; `draw` gives the values of the wordings, and the answer."""

    def make(rng: Random, source: Source) -> Draft:
        values, answer = draw(rng, source.pool)
        return Draft(
            describe(_TEXTS[name], rng, source.split, values),
            source.messages.rows(rng, source.messages.mixed, lambda message: answer),
        )

    return _family(name, make)


def _word(rng: Random, pool: WordPool) -> tuple[Values, str]:
    word = pool.answer(rng)
    return {"word": word}, word


def _word_in_capitals(rng: Random, pool: WordPool) -> tuple[Values, str]:
    word = pool.phrase(rng) if rng.random() < 0.15 else pool.word(rng)
    return {"word": word}, word.upper()


def _name(rng: Random, pool: WordPool) -> tuple[Values, str]:
    name = pool.name(rng)
    return {"word": name}, name


def _greeting(rng: Random, pool: WordPool) -> tuple[Values, str]:
    name = pool.name(rng)
    greeting = rng.choice(GREETINGS).replace("<word>", name)
    return {"word": name, "greeting": greeting}, greeting


def _one_of_two_names(rng: Random, pool: WordPool) -> tuple[Values, str]:
    name, other_name = pool.labels(rng, 2)
    thing, other_thing = rng.sample(THINGS, 2)
    values = {"word1": name, "word2": other_name, "thing1": thing, "thing2": other_thing}
    return values, name


def _word_several_times(rng: Random, pool: WordPool) -> tuple[Values, str]:
    word, number = pool.word(rng), rng.randint(2, 5)
    values = {"word": word, "n": [str(number), NUMBERS[number - 1]]}
    return values, " ".join([word] * number)


# The message with a word, or a part of it


def _with_word(name: str, place: Callable[[Message, str], str | None]) -> Family:
    """Make a family that puts a word around or into the message."""

    def make(rng: Random, source: Source) -> Draft:
        word = source.pool.answer(rng)
        return Draft(
            describe(_TEXTS[name], rng, source.split, {"word": word}),
            source.messages.rows(rng, source.messages.short, lambda message: place(message, word)),
        )

    return _family(name, make)


def _several_words(words: Sequence[str]) -> str | None:
    return " ".join(words) if len(words) > 1 else None


def _neighbour(name: str, step: int) -> Family:
    """Make a family that asks for the word beside a word which is put into the messages."""

    def make(rng: Random, source: Source) -> Draft:
        word = source.pool.word(rng)
        rows = []
        for text, _, digit in source.messages.rows(
            rng, source.messages.short, lambda message: message.text
        ):
            words = text.split()
            place = rng.randrange(1, len(words))
            neighbour = words[place - 1 if step < 0 else place]
            if word not in words and neighbour.isalnum():
                rows.append((" ".join([*words[:place], word, *words[place:]]), (neighbour,), digit))
        return Draft(describe(_TEXTS[name], rng, source.split, {"word": word}), rows)

    return _family(name, make)


def _numbered(
    name: str, low: int, high: int, compute: Callable[[Message, int], str | None]
) -> Family:
    """Make a family that copies as much of the message as a number says, from `low` to `high`."""

    def make(rng: Random, source: Source) -> Draft:
        number = rng.randint(low, high)
        values = {"n": [str(number), NUMBERS[number - 1]]}
        return Draft(
            describe(_TEXTS[name], rng, source.split, values),
            source.messages.rows(
                rng, source.messages.short, lambda message: compute(message, number)
            ),
        )

    return _family(name, make)


def _first_words(message: Message, number: int) -> str | None:
    return " ".join(message.words[:number]) if len(message.words) > number else None


def _repeated(message: Message, number: int) -> str | None:
    return " ".join([message.text] * number) if len(message.words) < 8 else None


def _calculated(name: str, sign: int) -> Family:
    """Make a family that adds a number to the one in the message, or takes it away."""

    def make(rng: Random, source: Source) -> Draft:
        number = rng.randint(1, rng.choice((9, 20, 50)))

        def compute(message: Message) -> str | None:
            (digits,) = re.findall(r"\d+", message.text)
            result = int(digits) + sign * number
            return str(result) if result >= 0 else None

        return Draft(
            describe(_TEXTS[name], rng, source.split, {"n": str(number)}),
            source.messages.rows(rng, source.messages.counts, compute),
        )

    return _family(name, make)


WORD_FAMILIES: tuple[Family, ...] = (
    _always("word_constant", _word),
    _always("word_capitals", _word_in_capitals),
    _always("word_name", _name),
    _always("word_greeting", _greeting),
    _always("word_chosen_name", _one_of_two_names),
    _with_word("word_start", lambda message, word: f"{word} {message.text}"),
    _with_word("word_end", lambda message, word: f"{message.text} {word}"),
    _with_word(
        "word_between",
        lambda message, word: _several_words([message.words[0], word, *message.words[1:]]),
    ),
    _with_word(
        "word_replace_first", lambda message, word: _several_words([word, *message.words[1:]])
    ),
    _with_word(
        "word_replace_last", lambda message, word: _several_words([*message.words[:-1], word])
    ),
    _with_word("word_both_ends", lambda message, word: f"{word} {message.text} {word}"),
    _neighbour("word_next", 1),
    _neighbour("word_previous", -1),
    _numbered("word_first_words", 2, 6, _first_words),
    _numbered("word_repeat", 2, 3, _repeated),
    _always("word_times", _word_several_times),
    _calculated("word_add", 1),
    _calculated("word_subtract", -1),
    *WORD_LABEL_FAMILIES,
)
