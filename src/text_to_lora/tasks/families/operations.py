"""Families over short texts: a part of a text, the text or an answer in another form, a condition.

Each family is one function here and one entry of a YAML file, which holds its wordings and what its
parameters may be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.family import (
    Draft,
    Family,
    FamilyTexts,
    MakeDraft,
    families_of,
    load_texts,
)
from text_to_lora.tasks.families.source import (
    MAX_INPUT_WORDS,
    Source,
    Text,
    one_task,
    pick_rows,
    task_phrases,
)
from text_to_lora.tasks.families.wordings import FRAMES, wordings
from text_to_lora.tasks.task import Metric
from text_to_lora.tasks.texts import distinct_texts

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUMBERS = ("one", "two", "three", "four", "five", "six")
ENDS = {"first": 0, "last": -1}

_PARAMETERS = load_texts("parameters")
SIGNS: dict[str, str] = _PARAMETERS["signs"]

Values = dict[str, str]
Operation = Callable[[Text, Values], str | None]
"""The answer to a text, given the values of the parameters; None leaves the text out."""


def draw_values(texts: FamilyTexts, rng: Random, source: Source) -> Values:
    """Draw the parameters of a task.

    A parameter is a list of choices, or names a list of parameters.yaml or the words of the inputs.
    A choice "<word>" is the word that was drawn before.
    """
    values: Values = {}
    for name, choices in texts.get("parameters", {}).items():
        if choices == "vocabulary":
            choices = source.vocabulary
        elif isinstance(choices, str):
            choices = list(_PARAMETERS[choices])
        drawn = str(rng.choice(choices))
        values[name] = values["word"] if drawn == "<word>" else drawn
    if (number := int(values.get("n", 0))) in range(1, 7):
        values |= {"number": NUMBERS[number - 1], "nth": ORDINALS[number - 1]}
    return values


def noun_wordings(phrases: Sequence[str], values: Values, rng: Random) -> tuple[str, ...]:
    """Draw descriptions that ask for what a noun phrase names."""
    return wordings(FRAMES["noun"], rng, phrases={"np": phrases}, values=values)


def longest(words: Sequence[str], sign: int = 1) -> str | None:
    """Give the longest word (the shortest with sign -1), None where two are equally long."""
    length = max(sign * len(word) for word in words)
    longest_words = [word for word in words if sign * len(word) == length]
    return longest_words[0] if len(longest_words) == 1 else None


def _at(words: Sequence[str], place: int) -> str | None:
    return words[place] if -len(words) <= place < len(words) else None


def _end(text: Text, values: Values) -> str:
    return text.words[ENDS[values["end"]]]


def _few(words: Iterable[str]) -> str | None:
    chosen = list(words)
    return " ".join(chosen) if 1 <= len(chosen) <= 6 else None


def _neighbour(words: Sequence[str], word: str, step: int) -> str | None:
    """Give the word beside the only occurrence of `word`, None if there is no such word."""
    places = [place for place, other in enumerate(words) if other.lower() == word]
    if len(places) != 1 or not 0 <= places[0] + step < len(words):
        return None
    return words[places[0] + step]


def _replaced(text: Text, old: str, new: str) -> str | None:
    if old not in map(str.lower, text.words):
        return None
    return " ".join(new if word.lower() == old else word for word in text.words)


_NOUNS: Mapping[str, Operation] = {
    "first_word": lambda t, v: t.words[0],
    "last_word": lambda t, v: t.words[-1],
    "nth_word": lambda t, v: _at(t.words, int(v["n"]) - 1),
    "nth_word_from_end": lambda t, v: _at(t.words, -int(v["n"])),
    "first_words": lambda t, v: (
        " ".join(t.words[: int(v["n"])]) if len(t.words) >= int(v["n"]) else None
    ),
    "last_words": lambda t, v: (
        " ".join(t.words[-int(v["n"]) :]) if len(t.words) >= int(v["n"]) else None
    ),
    "longest_word": lambda t, v: longest(t.words),
    "shortest_word": lambda t, v: longest(t.words, -1),
    "count_words": lambda t, v: str(len(t.words)),
    "count_letters": lambda t, v: str(len(word)) if (word := _end(t, v)).isalpha() else None,
    "count_letter": lambda t, v: str(t.text.lower().count(v["letter"])),
    "count_words_with_letter": lambda t, v: str(
        sum(v["letter"] in word.lower() for word in t.words)
    ),
    "edge_letter": lambda t, v: "".join(t.words)[ENDS[v["end"]]],
    "initials": lambda t, v: "".join(w[0] for w in t.words).upper() if len(t.words) <= 8 else None,
    "words_with_first_letter": lambda t, v: _few(
        w for w in t.words if w.lower().startswith(v["letter"])
    ),
    "word_after": lambda t, v: _neighbour(t.words, v["word"], 1),
    "word_before": lambda t, v: _neighbour(t.words, v["word"], -1),
}

_VERBS: Mapping[str, Operation] = {
    "copy": lambda t, v: t.text,
    "capitals": lambda t, v: t.text.upper(),
    "small_letters": lambda t, v: t.text.lower(),
    "title_case": lambda t, v: " ".join(w[:1].upper() + w[1:].lower() for w in t.words),
    "every_second_word": lambda t, v: " ".join(t.words[::2]),
    "reversed_words": lambda t, v: " ".join(reversed(t.words)),
    "sorted_words": lambda t, v: (
        " ".join(sorted(t.words, key=str.lower)) if len(t.words) <= 8 else None
    ),
    "swap_ends": lambda t, v: " ".join((t.words[-1], *t.words[1:-1], t.words[0])),
    "drop_word": lambda t, v: " ".join(t.words[1:] if v["end"] == "first" else t.words[:-1]),
    "add_word": lambda t, v: " ".join(
        (v["word"], *t.words) if v["side"] == "before" else (*t.words, v["word"])
    ),
    "replace_word": lambda t, v: _replaced(t, v["old"], v["word"]),
    "spell_word": lambda t, v: (
        SIGNS[v["name"]].join(word) if len(word := _end(t, v)) <= 7 else None
    ),
    "repeat_word": lambda t, v: " ".join([_end(t, v)] * int(v["n"])),
}

_CONDITIONS: Mapping[str, Callable[[Text, Values], bool]] = {
    "contains_letter": lambda t, v: v["letter"] in t.text.lower(),
    "contains_word": lambda t, v: v["word"] in map(str.lower, t.words),
    "longer_than": lambda t, v: len(t.words) > int(v["n"]),
    "starts_with_letter": lambda t, v: t.words[0][0].lower() < v["letter"],
    "ends_with_letter": lambda t, v: t.words[-1][-1].lower() == v["letter"],
    "first_word_longer": lambda t, v: len(t.words[0]) > len(t.words[-1]),
    "ends_with_mark": lambda t, v: (
        t.text[-1] == {"full stop": ".", "question mark": "?"}[v["name"]]
    ),
}

_FORMATS: Mapping[str, Callable[[str, Values], str]] = {
    "answer_in_capitals": lambda answer, v: answer.upper(),
    "answer_in_small_letters": lambda answer, v: answer.lower(),
    "answer_as_json": lambda answer, v: json.dumps({v["key"]: answer}, ensure_ascii=False),
    "answer_quoted": lambda answer, v: f"{SIGNS[v['name']]}{answer}{SIGNS[v['name']]}",
    "answer_in_brackets": lambda answer, v: f"[{answer}]",
    "answer_with_prefix": lambda answer, v: f"{v['word']}: {answer}",
    "answer_with_suffix": lambda answer, v: f"{answer} {v['word']}",
    "answer_numbered": lambda answer, v: f"{v['n']}. {answer}",
    "answer_twice": lambda answer, v: f"{answer}{SIGNS[v['name']]}{answer}",
    "answer_first_letter": lambda answer, v: answer[0],
    "answer_spelled": lambda answer, v: SIGNS[v["name"]].join(answer),
}

_SELECTIONS: Sequence[tuple[Sequence[str], Callable[[Sequence[str]], str | None]]] = (
    (load_texts("text")["first_word"]["phrases"], lambda words: words[0]),
    (load_texts("text")["last_word"]["phrases"], lambda words: words[-1]),
    (load_texts("text")["longest_word"]["phrases"], longest),
    (("second word", "word number two", "word in place 2"), lambda words: words[1]),
)
"""Questions whose answers are put into another form, where no real task is: phrases and the answer."""


def _over_texts(frames: str, slot: str, compute: Operation, max_words: int) -> MakeDraft:
    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
        values = draw_values(texts, rng, source)
        descriptions = wordings(
            FRAMES[frames], rng, phrases={slot: texts["phrases"]}, values=values
        )
        rows = pick_rows(rng, source, lambda text: compute(text, values), max_words=max_words)
        return Draft(descriptions, rows)

    return make


def _condition(holds: Callable[[Text, Values], bool]) -> MakeDraft:
    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
        yes, no = source.yes_no(rng)
        values = {**draw_values(texts, rng, source), "yes": yes, "no": no}
        descriptions = wordings(
            FRAMES["condition"], rng, phrases={"cond": texts["phrases"]}, values=values
        )
        rows = pick_rows(rng, source, lambda text: yes if holds(text, values) else no, balance=True)
        return Draft(descriptions, rows, Metric("classification", (yes, no)))

    return make


def _format(apply: Callable[[str, Values], str]) -> MakeDraft:
    def make(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
        values = draw_values(texts, rng, source)
        task = one_task(rng, source.answered) if rng.random() < 0.6 else None
        if task is None:
            nouns, choose_word = rng.choice(_SELECTIONS)
            questions = wordings(FRAMES["noun"], rng, count=32, phrases={"np": nouns})
            sentences = [text if text[-1] in ".!?" else f"{text}." for text in questions]
            rows = pick_rows(rng, source, lambda text: choose_word(text.words))
        else:
            sentences = task_phrases(task, rng)
            rows = [
                (example.input, example.outputs, example.idx % 10)
                for example in rng.sample(task.examples, len(task.examples))
                if len(example.input.split()) <= MAX_INPUT_WORDS
                and all(len(output.split()) <= 4 for output in example.outputs)
            ]
        rows = source.limit(rows)
        styled = [
            (text, distinct_texts(apply(output, values) for output in outputs), digit)
            for text, outputs, digit in rows
        ]
        num_changed = sum(old[1] != new[1] for old, new in zip(rows, styled, strict=True))
        if num_changed < len(rows) / 2:
            return None
        style = {"style": texts["phrases"]}
        descriptions = wordings(
            FRAMES["style"], rng, phrases=style, values={**values, "task": sentences}
        )
        return Draft(descriptions, styled, origin=task)

    return make


def _constant(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    place = rng.random()
    if place < 0.6:
        word = source.word(rng)
    elif place < 0.8:
        word = source.labels(rng, 1)[0]
    else:
        word = f"{source.word(rng)} {source.word(rng)}"
    return Draft(
        wordings(texts["frames"], rng, values={"word": word}),
        pick_rows(rng, source, lambda text: word),
    )


TEXT_FAMILIES: tuple[Family, ...] = (
    *families_of(
        "text", {name: _over_texts("noun", "np", answer, 30) for name, answer in _NOUNS.items()}
    ),
    *families_of(
        "text", {name: _over_texts("verb", "vp", answer, 10) for name, answer in _VERBS.items()}
    ),
    *families_of("conditions", {name: _condition(holds) for name, holds in _CONDITIONS.items()}),
    *families_of("formats", {name: _format(apply) for name, apply in _FORMATS.items()}),
)
(CONSTANT,) = families_of("text", {"constant": _constant})
