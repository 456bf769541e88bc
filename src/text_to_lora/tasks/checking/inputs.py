"""What inputs give away: rows that several tasks share, and tasks that the input alone tells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Final

from text_to_lora.errors import needs_extra
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import plain_words

_KNOWN_ROWS: Final = 20  # rows of a task that a guess may look at
_GUESSED_ROWS: Final = 5  # other rows of it whose task is guessed
_ROWS_AT_ONCE: Final = 256


def count_shared(tasks: Sequence[Task]) -> tuple[list[int], Counter[tuple[int, int]]]:
    """Count the rows of each task whose input another task has too, up to case and punctuation.

    Also gives the number of inputs that two tasks share, by their places.
    """
    owners: dict[int, set[int]] = defaultdict(set)
    keys = [[hash(plain_words(row.input)) for row in task.examples] for task in tasks]
    for place, hashes in enumerate(keys):
        for key in hashes:
            owners[key].add(place)
    pairs: Counter[tuple[int, int]] = Counter()
    for places in owners.values():
        first, *others = sorted(places)  # a text that all tasks have would make a square of pairs
        pairs.update((first, other) for other in others)
    shared = [sum(len(owners[key]) > 1 for key in hashes) for hashes in keys]
    return shared, pairs


def guess_tasks(tasks: Sequence[Task], seed: int = 0) -> list[float]:
    """Guess the task of some inputs of each task by the nearest other input; gives the shares right.

    The nearest is by TF-IDF of words, among a few rows of every task. Where most guesses are right, a
    network can lower its loss without reading the description.

    Raises ConfigError when scikit-learn is not installed.
    """
    with needs_extra("eval", "guessing tasks"):
        from sklearn.feature_extraction.text import TfidfVectorizer
    known: list[tuple[int, str]] = []
    asked: list[tuple[int, str]] = []
    for place, task in enumerate(tasks):
        count = min(len(task.examples), _KNOWN_ROWS + _GUESSED_ROWS)
        rows = Random(f"{seed}/{task.name}").sample(task.examples, count)
        num_asked = min(_GUESSED_ROWS, count // 2)
        asked += [(place, row.input) for row in rows[:num_asked]]
        known += [(place, row.input) for row in rows[num_asked:]]
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    try:
        table = vectorizer.fit_transform([text for _, text in known]).T.tocsr()
    except ValueError:  # no input has a word
        return [0.0] * len(tasks)
    right, total = Counter[int](), Counter(place for place, _ in asked)
    for start in range(0, len(asked), _ROWS_AT_ONCE):
        part = asked[start : start + _ROWS_AT_ONCE]
        likeness = (vectorizer.transform([text for _, text in part]) @ table).toarray()
        for (place, _), row in zip(part, likeness, strict=True):
            nearest = int(row.argmax())
            right[place] += row[nearest] > 0 and known[nearest][0] == place
    return [right[place] / max(1, total[place]) for place in range(len(tasks))]
