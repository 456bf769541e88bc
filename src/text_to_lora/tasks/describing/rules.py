"""Which descriptions are fit to train on: whole, unlike the others, and free of the task's rows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from text_to_lora.tasks.describing.wording import shown_rows
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import plain_words

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHARS: Final = 1500
QUOTED_WORDS: Final = 6  # in a row, of an input

Embed = Callable[[Sequence[str]], "Tensor"]
"""Embeddings of texts, [texts, embedding_dim]."""


class Rules:
    """Takes the descriptions of one task one by one.

    embed: where two descriptions have a cosine above `max_similarity`, only the first is taken
    accepted: descriptions that are taken; left_out: number of the others by reason
    """

    _lock = threading.Lock()  # encoders are not made for several threads

    def __init__(
        self, task: Task, known: Iterable[str], embed: Embed, *, max_similarity: float = 0.95
    ) -> None:
        self._embed = embed
        self._max_similarity = max_similarity
        self._definition = f" {plain_words(task.definition)} "
        rows = shown_rows(task)
        labels = {plain_words(label) for label in task.metric.labels}
        answers = {plain_words(answer) for row in rows for answer in row.outputs} - labels
        self._answers = self._not_in_definition(answers)
        self._quotes = self._not_in_definition(
            quote for row in rows for quote in _quotes(plain_words(row.input))
        )
        self.accepted = list(known)
        self._taken = {plain_words(text) for text in (task.definition, *self.accepted)}
        self._vectors = [self._vector(text) for text in (task.definition, *self.accepted)]
        self.left_out: Counter[str] = Counter()

    def take(self, texts: Iterable[object]) -> list[str]:
        """Accept the texts that pass, and give them; the others are counted."""
        before = len(self.accepted)
        for text in texts:
            plain = " ".join(text.split()) if isinstance(text, str) else ""
            if (reason := self._reject(plain)) is not None:
                self.left_out[reason] += 1
                continue
            self.accepted.append(plain)
            self._taken.add(plain_words(plain))
        return self.accepted[before:]

    def drop(self, text: str, reason: str) -> None:
        """Take back a description that was accepted."""
        self.accepted.remove(text)
        self.left_out[reason] += 1

    def _reject(self, text: str) -> str | None:
        words = f" {plain_words(text)} "
        if not words.strip() or len(text) > MAX_CHARS:
            return "empty, no text or too long"
        if any(f" {answer} " in words for answer in self._answers):
            return "name an answer that is no label"
        if any(f" {quote} " in words for quote in self._quotes):
            return "quote a row"
        if plain_words(text) in self._taken:
            return "are there already"
        vector = self._vector(text)
        if any(float(vector @ other) > self._max_similarity for other in self._vectors):
            return "are too like another"
        self._vectors.append(vector)
        return None

    def _not_in_definition(self, texts: Iterable[str]) -> set[str]:
        return {text for text in texts if text and f" {text} " not in self._definition}

    def _vector(self, text: str) -> Tensor:
        with self._lock:
            vector = self._embed([text])[0].float()
        unit: Tensor = vector / vector.norm().clamp(min=1e-9)
        return unit


def _quotes(text: str) -> Iterable[str]:
    """Every run of so many words in a text; the whole of a text of three words or more."""
    words = text.split()
    if 3 <= len(words) <= QUOTED_WORDS:
        yield text
    for start in range(len(words) - QUOTED_WORDS + 1):
        yield " ".join(words[start : start + QUOTED_WORDS])
