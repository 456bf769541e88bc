"""Families that ask for a part of a text, or for the text in another form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Draft, Family
from text_to_lora.tasks.families.source import Source, Text, pick_rows
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import FRAMES, wordings

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUMBERS = ("one", "two", "three", "four", "five", "six")
ENDS = {"first": 0, "last": -1}
SIGNS = {
    "hyphen": "-",
    "star": "*",
    "semicolon": ";",
    "plus sign": "+",
    "comma": ",",
    "colon": ":",
    "space": " ",
    "double quote": '"',
    "vertical bar": "|",
    "hash sign": "#",
    "tilde": "~",
    "dot": ".",
}
# fmt: off
COMMON_WORDS = (
    "the", "a", "of", "to", "and", "in", "is", "for", "on", "that", "it", "with", "was", "he", "i",
    "you", "from", "at", "be", "are", "this",
)
# fmt: on

_TEXTS = load_texts("text")

Values = dict[str, str]
Parameters = Callable[[Random, Source], Values]


def no_parameters(rng: Random, source: Source) -> Values:
    """Give a family no values of its own."""
    return {}


def _family(
    name: str,
    frames: str,
    slot: str,
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters,
    max_words: int,
) -> Family:
    phrases = _TEXTS[name]["phrases"]

    def make(rng: Random, source: Source) -> Draft:
        values = parameters(rng, source)
        return Draft(
            wordings(
                FRAMES[frames],
                rng,
                count=DESCRIPTIONS_PER_TASK,
                phrases={slot: phrases},
                values=values,
            ),
            pick_rows(rng, source, lambda text: compute(text, values), max_words=max_words),
        )

    return Family.described(name, _TEXTS[name], make)


def _noun(
    name: str,
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters = no_parameters,
) -> Family:
    return _family(name, "noun", "np", compute, parameters, max_words=30)


def _verb(
    name: str,
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters = no_parameters,
) -> Family:
    return _family(name, "verb", "vp", compute, parameters, max_words=10)


def _position(low: int, high: int) -> Parameters:
    def draw(rng: Random, source: Source) -> Values:
        n = rng.randint(low, high)
        return {"n": str(n), "number": NUMBERS[n - 1], "nth": ORDINALS[n - 1]}

    return draw


def one_letter(letters: str) -> Parameters:
    """Give a function that draws one of the letters."""
    return lambda rng, source: {"letter": rng.choice(letters)}


def one_word(rng: Random, source: Source) -> Values:
    """Draw a word of the inputs."""
    return {"word": source.word(rng)}


def one_common_word(rng: Random, source: Source) -> Values:
    """Draw one of the most frequent words."""
    return {"word": rng.choice(COMMON_WORDS)}


def one_sign(rng: Random, source: Source) -> Values:
    """Draw the name of a punctuation mark."""
    return {"name": rng.choice(list(SIGNS))}


def _one_end(rng: Random, source: Source) -> Values:
    return {"end": rng.choice(list(ENDS))}


def _at(words: Sequence[str], place: int) -> str | None:
    return words[place] if -len(words) <= place < len(words) else None


def longest(words: Sequence[str]) -> str | None:
    """Give the longest word, None where two are equally long."""
    length = max(map(len, words))
    words_of_length = [word for word in words if len(word) == length]
    return words_of_length[0] if len(words_of_length) == 1 else None


def _shortest(words: Sequence[str]) -> str | None:
    length = min(map(len, words))
    words_of_length = [word for word in words if len(word) == length]
    return words_of_length[0] if len(words_of_length) == 1 else None


def _count_letter(text: str, letter: str) -> int:
    return text.lower().count(letter)


def _few(words: Iterable[str]) -> str | None:
    chosen = list(words)
    return " ".join(chosen) if 1 <= len(chosen) <= 6 else None


def _neighbour(words: Sequence[str], word: str, step: int) -> str | None:
    """Give the word beside the only occurrence of `word`, None if there is no such word."""
    places = [place for place, other in enumerate(words) if other.lower() == word]
    if len(places) != 1 or not 0 <= places[0] + step < len(words):
        return None
    return words[places[0] + step]


NOUN_FAMILIES: tuple[Family, ...] = (
    _noun("first_word", lambda t, v: t.words[0]),
    _noun("last_word", lambda t, v: t.words[-1]),
    _noun("nth_word", lambda t, v: _at(t.words, int(v["n"]) - 1), _position(2, 5)),
    _noun("nth_word_from_end", lambda t, v: _at(t.words, -int(v["n"])), _position(2, 4)),
    _noun(
        "first_words",
        lambda t, v: " ".join(t.words[: int(v["n"])]) if len(t.words) >= int(v["n"]) else None,
        _position(2, 5),
    ),
    _noun(
        "last_words",
        lambda t, v: " ".join(t.words[-int(v["n"]) :]) if len(t.words) >= int(v["n"]) else None,
        _position(2, 5),
    ),
    _noun("longest_word", lambda t, v: longest(t.words)),
    _noun("shortest_word", lambda t, v: _shortest(t.words)),
    _noun("count_words", lambda t, v: str(len(t.words))),
    _noun(
        "count_letters",
        lambda t, v: str(len(w)) if (w := t.words[ENDS[v["end"]]]).isalpha() else None,
        _one_end,
    ),
    _noun(
        "count_letter",
        lambda t, v: str(_count_letter(t.text, v["letter"])),
        one_letter("aeiostnrldhcup"),
    ),
    _noun(
        "count_words_with_letter",
        lambda t, v: str(sum(v["letter"] in word.lower() for word in t.words)),
        one_letter("aeiostnrld"),
    ),
    _noun("edge_letter", lambda t, v: "".join(t.words)[ENDS[v["end"]]], _one_end),
    _noun(
        "initials",
        lambda t, v: "".join(w[0] for w in t.words).upper() if len(t.words) <= 8 else None,
    ),
    _noun(
        "words_with_first_letter",
        lambda t, v: _few(w for w in t.words if w.lower().startswith(v["letter"])),
        one_letter("abcdfhilmopstw"),
    ),
    _noun("word_after", lambda t, v: _neighbour(t.words, v["word"], 1), one_common_word),
    _noun("word_before", lambda t, v: _neighbour(t.words, v["word"], -1), one_common_word),
)

VERB_FAMILIES: tuple[Family, ...] = (
    _verb("copy", lambda t, v: t.text),
    _verb("capitals", lambda t, v: t.text.upper()),
    _verb("small_letters", lambda t, v: t.text.lower()),
    _verb("title_case", lambda t, v: " ".join(w[:1].upper() + w[1:].lower() for w in t.words)),
    _verb("every_second_word", lambda t, v: " ".join(t.words[::2])),
    _verb("reversed_words", lambda t, v: " ".join(reversed(t.words))),
    _verb(
        "sorted_words",
        lambda t, v: " ".join(sorted(t.words, key=str.lower)) if len(t.words) <= 8 else None,
    ),
    _verb("swap_ends", lambda t, v: " ".join((t.words[-1], *t.words[1:-1], t.words[0]))),
    _verb(
        "drop_word",
        lambda t, v: " ".join(t.words[1:] if v["end"] == "first" else t.words[:-1]),
        _one_end,
    ),
    _verb(
        "add_word",
        lambda t, v: " ".join(
            (v["word"], *t.words) if v["side"] == "before" else (*t.words, v["word"])
        ),
        lambda rng, source: {"word": source.word(rng), "side": rng.choice(("before", "after"))},
    ),
    _verb(
        "replace_word",
        lambda t, v: (
            " ".join(v["word"] if w.lower() == v["old"] else w for w in t.words)
            if v["old"] in map(str.lower, t.words)
            else None
        ),
        lambda rng, source: {"word": source.word(rng), "old": rng.choice(COMMON_WORDS)},
    ),
    _verb(
        "spell_word",
        lambda t, v: SIGNS[v["name"]].join(w) if len(w := t.words[ENDS[v["end"]]]) <= 7 else None,
        lambda rng, source: {"end": rng.choice(list(ENDS)), "name": rng.choice(list(SIGNS))},
    ),
    _verb(
        "repeat_word",
        lambda t, v: " ".join([t.words[ENDS[v["end"]]]] * int(v["n"])),
        lambda rng, source: {
            "end": rng.choice(list(ENDS)),
            **_position(2, 4)(rng, source),
        },
    ),
)


def _constant(rng: Random, source: Source) -> Draft:
    kind = rng.random()
    if kind < 0.6:
        word = source.word(rng)
    elif kind < 0.8:
        word = source.labels(rng, 1)[0]
    else:
        word = f"{source.word(rng)} {source.word(rng)}"
    return Draft(
        wordings(
            _TEXTS["constant"]["frames"], rng, count=DESCRIPTIONS_PER_TASK, values={"word": word}
        ),
        pick_rows(rng, source, lambda text: word),
    )


CONSTANT = Family.described("constant", _TEXTS["constant"], _constant)
