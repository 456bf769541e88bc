"""The real inputs that families draw on, and rows drawn from them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from random import Random
from typing import Any, TypeVar

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Split, SyntheticRow
from text_to_lora.tasks.families.messages import Messages
from text_to_lora.tasks.families.word_pool import (
    LABEL_SETS,
    UNSEEN_WORDS,
    VALIDATION_LABEL_SETS,
    YES_NO_WORDS,
    WordPool,
    is_held_out,
)
from text_to_lora.tasks.task import Example, Task

EXAMPLES_PER_TASK = 64
MIN_EXAMPLES = 16
TEXTS_PER_TASK = 16  # inputs that one source task adds to the common texts
MAX_INPUT_WORDS = 60
MAX_DESCRIPTION_WORDS = 60


@dataclass(frozen=True, slots=True)
class Text:
    """A short real input, its words without punctuation, and the last digit of its idx."""

    text: str
    words: tuple[str, ...]
    digit: int


Limited = TypeVar("Limited", bound=tuple[Any, ...])
Record = tuple[Example, tuple[str, ...]]
"""An example whose input has named fields, and the values of these."""


class Source:
    """The real inputs that families draw on, for one split."""

    def __init__(self, tasks: Sequence[Task], split: Split, seed: int) -> None:
        self.split: Split = split
        self._tasks = tasks
        self._seed = seed
        rng = Random(f"{seed}/{split}")
        self.texts: list[Text] = []
        self.labelled: list[Task] = []
        self.answered: list[Task] = []
        self.paired: list[Task] = []
        self.records: list[tuple[Task, tuple[str, ...], list[Record]]] = []
        for task in tasks:
            examples = [example for example in task.examples if self.takes(example)]
            rng.shuffle(examples)
            self.texts += [text for text in map(_as_text, examples[:TEXTS_PER_TASK]) if text]
            if task_texts(task):
                if task.metric.kind == "classification" and 2 <= len(task.metric.labels) <= 6:
                    self.labelled.append(task)
                self._add_answers(task, examples)
            self._add_records(task, examples)
        self.texts = list({text.text: text for text in self.texts}.values())
        words = {word.lower() for text in self.texts for word in text.words}
        self.vocabulary = sorted(
            word
            for word in words - UNSEEN_WORDS
            if re.fullmatch("[a-z]{3,9}", word) and is_held_out(word) == (split == "validation")
        )

    @cached_property
    def pool(self) -> WordPool:
        """The words that word families may ask for."""
        return WordPool(self.split)

    @cached_property
    def messages(self) -> Messages:
        """The inputs of the word families."""
        return Messages(self._tasks, self.split, Random(f"{self._seed}/{self.split}/messages"))

    def takes(self, example: Example) -> bool:
        """Tell whether an example may be used; validation never shares an input with training."""
        return self.split == "train" or example.idx % 10 == 9

    def limit(self, rows: Sequence[Limited]) -> list[Limited]:
        """Keep EXAMPLES_PER_TASK rows, the last entry of each being its digit.

        In training, one row in eight is of validation inputs; in validation, all are.
        """
        held_out = [row for row in rows if row[-1] == 9]
        if self.split == "validation":
            return held_out[:EXAMPLES_PER_TASK]
        held_out = held_out[: EXAMPLES_PER_TASK // 8]
        trained = [row for row in rows if row[-1] != 9][: EXAMPLES_PER_TASK - len(held_out)]
        return trained + held_out

    def labels(self, rng: Random, count: int) -> list[str]:
        """Draw new labels of one set."""
        held_out = self.split == "validation"
        names = [name for name in LABEL_SETS if (name in VALIDATION_LABEL_SETS) == held_out]
        return rng.sample(LABEL_SETS[rng.choice(names)], count)

    def yes_no(self, rng: Random) -> tuple[str, str]:
        """Draw the words for the two outcomes of a condition."""
        if self.split == "train" and rng.random() < 0.5:
            return rng.choice(YES_NO_WORDS)
        yes, no = self.labels(rng, 2)
        return yes, no

    def word(self, rng: Random) -> str:
        """Draw a word of the inputs; validation has words of its own."""
        return rng.choice(self.vocabulary)

    def _add_answers(self, task: Task, examples: Sequence[Example]) -> None:
        short = [e for e in examples[:200] if all(len(o.split()) <= 4 for o in e.outputs)]
        if len(short) < MIN_EXAMPLES:
            return
        self.answered.append(task)
        if all(len(e.input.split()) <= 4 for e in short) and (
            len({e.outputs[0] for e in short}) > len(short) // 2
        ):
            self.paired.append(task)

    def _add_records(self, task: Task, examples: Sequence[Example]) -> None:
        layouts: dict[tuple[str, ...], list[Record]] = {}
        for example in examples[:200]:
            fields = _fields(example.input)
            if fields and len(example.input.split()) <= MAX_INPUT_WORDS:
                layouts.setdefault(tuple(fields), []).append((example, tuple(fields.values())))
        for names, rows in layouts.items():
            if len(rows) >= MIN_EXAMPLES:
                self.records.append((task, names, rows))


def _as_text(example: Example) -> Text | None:
    """Give a plain short text, or None: every word has a letter or digit, no lines, no fields."""
    text = example.input.strip()
    if (
        not 12 <= len(text) <= 200
        or not text.isascii()
        or any(sign in text for sign in "\n:<>[]{}")
    ):
        return None
    raw = text.split()
    words = tuple(word.strip(string.punctuation) for word in raw)
    if not 3 <= len(words) <= 30 or not all(words):
        return None
    if sum(word.replace("'", "").isalpha() for word in words) < 0.8 * len(words):
        return None
    return Text(text, words, example.idx % 10)


def _fields(text: str) -> dict[str, str]:
    """Give {field name: value} of an input whose every line is "Name: value", two or more."""
    lines = [line.strip() for line in re.split(r"\n|<sep>", text) if line.strip()]
    matches = [re.fullmatch(r"([A-Z][A-Za-z0-9 _-]{0,24}): *(\S.*)", line) for line in lines]
    fields = {match[1].strip(): match[2].strip() for match in matches if match}
    return fields if 2 <= len(fields) == len(lines) else {}


def task_texts(task: Task) -> list[str]:
    """Give a task's short descriptions."""
    return [text for text in task.descriptions if len(text.split()) <= MAX_DESCRIPTION_WORDS]


def task_phrases(task: Task, rng: Random) -> list[str]:
    """Give a task's short descriptions as values, each ending a sentence."""
    texts = task_texts(task)
    chosen = rng.sample(texts, min(len(texts), DESCRIPTIONS_PER_TASK))
    return [text if text[-1] in ".!?:" else f"{text}." for text in chosen]


def pick_rows(
    rng: Random,
    source: Source,
    compute: Callable[[Text], str | None],
    *,
    max_words: int = 30,
    balance: bool = False,
) -> list[SyntheticRow]:
    """Draw rows over the common texts; with `balance`, as many of one answer as of another."""
    by_answer: dict[str, list[SyntheticRow]] = {}
    taken = 0
    for text in rng.sample(source.texts, len(source.texts)):
        answer = compute(text) if len(text.words) <= max_words else None
        if answer:
            row = (text.text, (answer,), text.digit)
            by_answer.setdefault(answer if balance else "", []).append(row)
            taken += 1
        if taken == (16 if balance else 4) * EXAMPLES_PER_TASK:
            break
    fewest = min(map(len, by_answer.values()), default=0)
    if not balance:
        return source.limit(by_answer.get("", []))
    if len(by_answer) < 2 or fewest < MIN_EXAMPLES // 2:
        return []
    return source.limit(in_turns(rows[:fewest] for rows in by_answer.values()))


def in_turns(lists: Iterable[Sequence[SyntheticRow]]) -> list[SyntheticRow]:
    """Join lists, one row of each in turn, so that answers come evenly."""
    return [row for turn in zip_longest(*lists) for row in turn if row is not None]


def one_task(rng: Random, tasks: Sequence[Task]) -> Task | None:
    """Draw a task, None where there is none."""
    return rng.choice(tasks) if tasks else None
