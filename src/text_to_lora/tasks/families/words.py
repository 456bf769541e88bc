"""Families whose description carries the words of the answer, often rare or invented ones.

Constants, names, words to put around or into the message, numbers, and labels for a property of the
message. Only the description tells what is asked, and words are kept for validation, so that copying
has to be learnt and not a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal

from text_to_lora.tasks.families.family import (
    DESCRIPTIONS_PER_TASK,
    Draft,
    Family,
    FamilyTexts,
    MakeDraft,
    families_of,
    load_texts,
)
from text_to_lora.tasks.families.messages import Inputs, Message, Messages, plain_words
from text_to_lora.tasks.families.operations import NUMBERS
from text_to_lora.tasks.families.source import Source
from text_to_lora.tasks.families.word_pool import WordPool
from text_to_lora.tasks.families.wordings import Values, choose, describe
from text_to_lora.tasks.task import Metric

PROPERTIES = ("question", "question", "number", "longer", "vowel", "mentions", "request")
"""What may hold of a message, questions twice as often as the others."""

Parameters = dict[str, str]
"""Values of the slots of wordings, and `answer` where it is the same for every message.

`count` is a number; the slot <n> then shows it in digits or as a word.
"""


def _family(
    inputs: Literal["mixed", "short", "counts"],
    draw: Callable[[Random, WordPool], Parameters],
    answer: Callable[[Message, Parameters], str | None] = lambda message, parameters: parameters[
        "answer"
    ],
) -> MakeDraft:
    """Make a family: `draw` gives the parameters of a task, `answer` the answer to a message, or None."""

    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
        parameters = draw(rng, source.pool)
        values: dict[str, str | Sequence[str]] = {**parameters}
        if "count" in parameters:
            values["n"] = [parameters["count"], NUMBERS[int(parameters["count"]) - 1]]
        descriptions = describe(texts, rng, source.split, values)
        chosen: Inputs = getattr(source.messages, inputs)
        rows = source.messages.rows(rng, chosen, lambda message: answer(message, parameters))
        return Draft(descriptions, rows)

    return make


# Parameters


def _constant(rng: Random, pool: WordPool) -> Parameters:
    word = pool.answer(rng)
    return {"word": word, "answer": word}


def _constant_in_capitals(rng: Random, pool: WordPool) -> Parameters:
    word = pool.phrase(rng) if rng.random() < 0.15 else pool.word(rng)
    return {"word": word, "answer": word.upper()}


def _name(rng: Random, pool: WordPool) -> Parameters:
    name = pool.name(rng)
    return {"word": name, "answer": name}


def _greeting(rng: Random, pool: WordPool) -> Parameters:
    name = pool.name(rng)
    greeting = rng.choice(load_texts("parameters")["greetings"]).replace("<word>", name)
    return {"word": name, "greeting": greeting, "answer": greeting}


def _one_of_two_names(rng: Random, pool: WordPool) -> Parameters:
    name, other_name = pool.labels(rng, 2)
    thing, other_thing = rng.sample(load_texts("parameters")["things"], 2)
    things = {"word1": name, "word2": other_name, "thing1": thing, "thing2": other_thing}
    return {**things, "answer": name}


def _repeated_word(rng: Random, pool: WordPool) -> Parameters:
    word, count = pool.word(rng), rng.randint(2, 5)
    return {"word": word, "count": str(count), "answer": " ".join([word] * count)}


def _count(low: int, high: int) -> Callable[[Random, WordPool], Parameters]:
    return lambda rng, pool: {"count": str(rng.randint(low, high))}


def _summand(rng: Random, pool: WordPool) -> Parameters:
    return {"n": str(rng.randint(1, rng.choice((9, 20, 50))))}


# Answers


def _with_word(place: Callable[[Sequence[str], str], Sequence[str]]) -> MakeDraft:
    """Make a family that puts a word around or into the message, where that leaves two words or more."""

    def answer(message: Message, parameters: Parameters) -> str | None:
        words = place(message.words, parameters["word"])
        return " ".join(words) if len(words) > 1 else None

    return _family("short", lambda rng, pool: {"word": pool.answer(rng)}, answer)


def _around(form: str) -> MakeDraft:
    """Make a family that puts a word before or after the message, which stays as it is."""

    def answer(message: Message, parameters: Parameters) -> str:
        return form.format(text=message.text, word=parameters["word"])

    return _family("short", lambda rng, pool: {"word": pool.answer(rng)}, answer)


def _first_words(message: Message, parameters: Parameters) -> str | None:
    count = int(parameters["count"])
    return " ".join(message.words[:count]) if len(message.words) > count else None


def _repeated(message: Message, parameters: Parameters) -> str | None:
    return " ".join([message.text] * int(parameters["count"])) if len(message.words) < 8 else None


def _sum(sign: int) -> Callable[[Message, Parameters], str | None]:
    def answer(message: Message, parameters: Parameters) -> str | None:
        (digits,) = re.findall(r"\d+", message.text)
        result = int(digits) + sign * int(parameters["n"])
        return str(result) if result >= 0 else None

    return answer


def _neighbour(step: int) -> MakeDraft:
    """Make a family that asks for the word beside a word which is put into the messages."""

    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
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
        return Draft(describe(texts, rng, source.split, {"word": word}), rows)

    return make


# Labels


def _labelled(
    rng: Random,
    source: Source,
    texts: FamilyTexts,
    values: Values,
    inputs: Inputs,
    label: Callable[[Message], str | None],
    labels: Sequence[str],
) -> Draft:
    """Make a task of labels, with about as many rows of each."""
    return Draft(
        describe(texts, rng, source.split, values),
        source.messages.rows(rng, inputs, label, num_answers=len(labels)),
        Metric("classification", tuple(labels)),
    )


def _two_labels(*, capitals: bool = False) -> MakeDraft:
    """Make a family that labels a message by whether it has a property.

    capitals: the description gives the labels in small letters and asks for capital ones
    """

    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
        pool = source.pool
        yes, no = pool.words(rng, 2) if capitals else pool.labels(rng, 2)
        name, slots, holds, inputs = _draw_property(rng, source.messages)
        phrases = [choose(text, rng) for text in load_texts("word_labels")["properties"][name]]
        labels = (yes.upper(), no.upper()) if capitals else (yes, no)
        return _labelled(
            rng,
            source,
            texts,
            {**slots, "yes": yes, "no": no, "cond": phrases},
            inputs,
            lambda message: labels[0] if holds(message) else labels[1],
            labels,
        )

    return make


def _draw_property(
    rng: Random, messages: Messages
) -> tuple[str, Mapping[str, str], Callable[[Message], bool], Inputs]:
    """Draw something that holds of some messages.

    Gives its name, the values of the slots in its wordings, whether it holds of a message, and
    messages of which it holds often enough.
    """
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
    return name, {"n": str(number), "target": target}, holds[name], inputs


def _label_list(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    """Make a task that labels a message by its kind or by what it is about."""
    by_kind = rng.random() < 0.4
    phrases = load_texts("word_labels")["kinds" if by_kind else "topics"]
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
    slots = {f"l{place}": label_of[name] for place, name in enumerate(chosen)}
    return _labelled(
        rng,
        source,
        texts,
        {**slots, "choices": choices},
        source.messages.sentences,
        lambda message: label_of.get(message.kind if by_kind else message.topic),
        list(label_of.values()),
    )


def _sentiment(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    yes, no = source.pool.labels(rng, 2)
    opinions = source.messages.opinions
    values = {"yes": yes, "no": no}
    return _labelled(
        rng, source, texts, values, opinions, lambda m: yes if m.kind == "good" else no, (yes, no)
    )


_WORD_LABEL_FAMILIES = families_of(
    "word_labels",
    {
        "word_labels": _two_labels(),
        "word_capital_labels": _two_labels(capitals=True),
        "word_several_labels": _label_list,
        "word_sentiment": _sentiment,
    },
)
WORD_LABELS = _WORD_LABEL_FAMILIES[0]

WORD_FAMILIES: tuple[Family, ...] = (
    *families_of(
        "words",
        {
            "word_constant": _family("mixed", _constant),
            "word_capitals": _family("mixed", _constant_in_capitals),
            "word_name": _family("mixed", _name),
            "word_greeting": _family("mixed", _greeting),
            "word_chosen_name": _family("mixed", _one_of_two_names),
            "word_start": _around("{word} {text}"),
            "word_end": _around("{text} {word}"),
            "word_between": _with_word(lambda words, word: [words[0], word, *words[1:]]),
            "word_replace_first": _with_word(lambda words, word: [word, *words[1:]]),
            "word_replace_last": _with_word(lambda words, word: [*words[:-1], word]),
            "word_both_ends": _around("{word} {text} {word}"),
            "word_next": _neighbour(1),
            "word_previous": _neighbour(-1),
            "word_first_words": _family("short", _count(2, 6), _first_words),
            "word_repeat": _family("short", _count(2, 3), _repeated),
            "word_times": _family("mixed", _repeated_word),
            "word_add": _family("counts", _summand, _sum(1)),
            "word_subtract": _family("counts", _summand, _sum(-1)),
        },
    ),
    *_WORD_LABEL_FAMILIES,
)
