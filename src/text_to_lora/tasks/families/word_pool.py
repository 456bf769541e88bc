"""The words that families ask for and use as labels, training and validation apart."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import Random

from text_to_lora.tasks.families.family import Split, load_texts

_LABELS = load_texts("label_sets")

LABEL_SETS: dict[str, tuple[str, ...]] = {
    name: tuple(words) for name, words in _LABELS["label_sets"].items()
}

YES_NO_WORDS: tuple[tuple[str, str], ...] = tuple((yes, no) for yes, no in _LABELS["yes_no_words"])

VALIDATION_LABEL_SETS: tuple[str, ...] = tuple(_LABELS["validation_label_sets"])
"""Never in training: that a set's words work as labels shows that the description was read.

Themes are whole, so that no neighbour of a validation word was trained as a label; the invented and
the coded set have no meaning that a base model could lean on.
"""

VALIDATION_WORDS: frozenset[str] = frozenset(
    word for name in VALIDATION_LABEL_SETS for word in LABEL_SETS[name]
)

UNSEEN_WORDS: frozenset[str] = frozenset(_LABELS["unseen_words"])
"""No family asks for these words, so that a demonstration can ask for one that is unseen."""

HELD_OUT_WORDS = UNSEEN_WORDS | VALIDATION_WORDS | {"lantern", "plumbum"}
"""Words of the pool that are never in training, whatever their hash says."""


def is_held_out(word: str) -> bool:
    """Tell whether a word, name or code is kept for validation, as one in ten is; case does not count."""
    word = word.casefold()
    return word in HELD_OUT_WORDS or sha256(word.encode()).digest()[0] % 10 == 0


class WordPool:
    """The words that descriptions of one split may ask for.

    Training and validation share no word; the words of a phrase are all of one split.
    common: words that are one token each for SmolLM2; rare: words that are several
    """

    def __init__(self, split: Split) -> None:
        self.split: Split = split
        self._held_out = split == "validation"
        self.common = self._listed("common")
        self.rare = self._listed("rare")

    def word(self, rng: Random) -> str:
        """Draw one word in small letters: common, rare or invented."""
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(self.common)
        return rng.choice(self.rare) if kind < 0.75 else self.invented(rng)

    def invented(self, rng: Random) -> str:
        """Draw a word of one to three made-up syllables."""

        parts: dict[str, list[str]] = load_texts("word_pool")

        def syllables() -> str:
            text = ""
            for _ in range(rng.choice((1, 2, 2, 2, 3))):
                text += rng.choice(parts["onsets"]) + rng.choice(parts["vowels"])
            text += rng.choice(parts["codas"])
            return text if len(text) > 3 else text + rng.choice(("ck", "zz", "lp", "nt"))

        return self._drawn(syllables)

    def code(self, rng: Random) -> str:
        """Draw a number or a code of letters and digits."""

        def draw() -> str:
            letters = "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=rng.randint(1, 3)))
            kind = rng.random()
            if kind < 0.5:
                return str(rng.randint(2, rng.choice((99, 999, 9999))))
            return f"{letters}{rng.choice(('-', '', ''))}{rng.randint(1, 999)}"

        return self._drawn(draw)

    def phrase(self, rng: Random) -> str:
        """Draw two or three words."""
        return " ".join(self.word(rng) for _ in range(rng.choice((2, 2, 3))))

    def name(self, rng: Random) -> str:
        """Draw a word with a capital first letter, now and then two."""
        words = [self.word(rng) for _ in range(2 if rng.random() < 0.15 else 1)]
        return " ".join(word.capitalize() for word in words)

    def answer(self, rng: Random) -> str:
        """Draw a text to answer with: a word in any case, a phrase, a number or a code."""
        kind = rng.random()
        if kind < 0.1:
            return self.code(rng)
        text = self.phrase(rng) if kind < 0.25 else self.word(rng)
        case = rng.random()
        if case < 0.75:
            return text
        return text.capitalize() if case < 0.9 else text.upper()

    def labels(self, rng: Random, count: int) -> list[str]:
        """Draw distinct labels, all words, all invented, or all codes, in one case."""
        kind = rng.choice((self.word, self.word, self.word, self.invented, self.code))
        style = rng.choice((str, str, str, str.capitalize, str.upper))
        words = self._distinct(kind, rng, count)
        return words if kind == self.code else [style(word) for word in words]

    def words(self, rng: Random, count: int) -> list[str]:
        """Draw distinct words in small letters."""
        return self._distinct(self.word, rng, count)

    def _listed(self, name: str) -> list[str]:
        words: list[str] = load_texts("word_pool")[name].split()
        return [word for word in words if is_held_out(word) == self._held_out]

    def _distinct(self, draw: Callable[[Random], str], rng: Random, count: int) -> list[str]:
        words: dict[str, None] = {}
        while len(words) < count:
            words[draw(rng)] = None
        return list(words)

    def _drawn(self, draw: Callable[[], str]) -> str:
        while is_held_out(text := draw()) != self._held_out:
            pass
        return text
