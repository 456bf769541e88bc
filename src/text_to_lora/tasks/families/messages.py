"""The inputs of the word families: everyday sentences, and inputs of real tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random

from text_to_lora.tasks.families.family import Split, SyntheticRow, load_texts
from text_to_lora.tasks.task import Task

ROWS_PER_TASK = 36
VALIDATION_ROWS = 4  # of these, in a training task
NUM_SENTENCES = {"train": 6000, "validation": 30_000}
"""Sentences written from templates for each split; validation keeps a tenth of its own."""
REAL_INPUTS_PER_TASK = 12
MAX_REAL_WORDS = 50


@dataclass(frozen=True, slots=True)
class Message:
    """An input, its words with their punctuation, the last digit of its idx, and what it is about.

    kind: "statement", "question", "request", "good", "bad" or "count"; empty for real inputs
    """

    text: str
    words: tuple[str, ...]
    digit: int
    kind: str = ""
    topic: str = ""


class Inputs:
    """Messages, those of training and those whose idx ends in 9 apart."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self.all = tuple(messages)
        self.training = tuple(message for message in self.all if message.digit != 9)
        self.validation = tuple(message for message in self.all if message.digit == 9)


class Messages:
    """The inputs of the word families for one split.

    sentences: everyday statements, questions and requests; opinions: good and bad ones of things;
        counts: messages with one number
    mixed: sentences, opinions, and as many inputs of real tasks, cut to MAX_REAL_WORDS words; short:
        those of `mixed` with 2 to 12 words
    mentioned: for a word that many sentences have, these sentences
    """

    def __init__(self, tasks: Sequence[Task], split: Split, rng: Random) -> None:
        self.split = split
        written = load_texts("messages")
        topics = written["topics"].items()
        self.sentences = self._write(
            [
                (x, kind, topic)
                for topic, kinds in topics
                for kind, texts in kinds.items()
                for x in texts
            ],
            rng,
        )
        self.opinions = self._write(
            [(x, kind, "opinion") for kind, texts in written["opinions"].items() for x in texts],
            rng,
        )
        self.counts = self._write([(text, "count", "number") for text in written["counts"]], rng)
        real = [
            _message(" ".join(example.input.split(" ")[:MAX_REAL_WORDS]), example.idx % 10)
            for task in tasks
            for example in rng.sample(task.examples, min(len(task.examples), REAL_INPUTS_PER_TASK))
            if example.input.strip() and (self.split == "train" or example.idx % 10 == 9)
        ]
        everyday = [*self.sentences.all, *self.opinions.all]
        real = rng.choices(real, k=len(everyday)) if real else []
        self.mixed = Inputs(everyday + real)
        self.short = Inputs(
            message
            for message in self.mixed.all
            if 2 <= len(message.words) <= 12 and re.fullmatch(r"[ -~]+", message.text)
        )
        self.mentioned = self._mentioned()

    def _write(self, templates: Sequence[tuple[str, str, str]], rng: Random) -> Inputs:
        """Fill every template in many ways; the digit of a sentence is a hash of it."""
        values = load_texts("messages")["values"]
        drawn: dict[str, Message] = {}
        for place in range(NUM_SENTENCES[self.split]):
            template, kind, topic = templates[place % len(templates)]
            text = re.sub(r"<([a-z]+)>", lambda match: str(rng.choice(values[match[1]])), template)
            text = text[:1].upper() + text[1:]
            digit = sha256(text.encode()).digest()[0] % 10
            if self.split == "train" or digit == 9:
                drawn[text] = _message(text, digit, kind, topic)
        return Inputs(drawn.values())

    def _mentioned(self) -> dict[str, list[Message]]:
        """Give the sentences of each word that enough of them have to ask for a mention of it."""
        least = ROWS_PER_TASK if self.split == "train" else ROWS_PER_TASK // 3
        mentioning: dict[str, list[Message]] = {}
        for message in self.sentences.all:
            for word in set(plain_words(message.text)):
                mentioning.setdefault(word, []).append(message)
        return {
            word: messages
            for word, messages in sorted(mentioning.items())
            if len(word) > 3
            and word.islower()
            and least < len(messages) < len(self.sentences.all) // 3
        }

    def rows(
        self,
        rng: Random,
        inputs: Inputs,
        compute: Callable[[Message], str | None],
        *,
        num_answers: int = 0,
    ) -> list[SyntheticRow]:
        """Draw rows of distinct messages, leaving out those for which `compute` gives None.

        num_answers: how many answers there are, to draw about as many rows of each; 0: draw rows as
            they come
        In training VALIDATION_ROWS rows have an idx that ends in 9; in validation all have.
        """
        num_validation = VALIDATION_ROWS if self.split == "train" else ROWS_PER_TASK
        rows: list[SyntheticRow] = []
        for messages, count in (
            (inputs.training, ROWS_PER_TASK - num_validation),
            (inputs.validation, num_validation),
        ):
            share = -(-count // max(num_answers, 1))
            drawn: dict[str, int] = {}
            part: dict[str, SyntheticRow] = {}
            tries = 40 if num_answers else 3
            for _ in range(tries * count if messages else 0):
                message = rng.choice(messages)
                answer = compute(message)
                key = answer if num_answers and answer else ""
                if answer is None or message.text in part or drawn.get(key, 0) == share:
                    continue
                part[message.text] = (message.text, (answer,), message.digit)
                drawn[key] = drawn.get(key, 0) + 1
                if len(part) == count:
                    break
            rows += part.values()
        rng.shuffle(rows)
        return rows


def plain_words(text: str) -> list[str]:
    """Give the words of a text without punctuation."""
    return re.findall(r"[A-Za-z0-9']+", text)


def _message(text: str, digit: int, kind: str = "", topic: str = "") -> Message:
    return Message(text, tuple(text.split()), digit, kind, topic)
