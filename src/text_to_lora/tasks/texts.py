"""Forms in which texts are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BESIDE_PUNCTUATION = re.compile(r"\s*([^\w\s])\s*")


def normalize_answer(text: str) -> str:
    """Give the form in which answers are compared: no case, plain spacing, no final full stop.

    Spaces beside punctuation are dropped, since tokenizers of word pieces do not keep them.
    """
    text = " ".join(text.casefold().split())
    return _BESIDE_PUNCTUATION.sub(r"\1", text).removesuffix(".")


def plain_words(text: str) -> str:
    """Give the words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))


def distinct_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Strip each text and keep the first of equal ones, in order, without empty ones."""
    return tuple(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
