"""Families whose description carries the words of the answer, often rare or invented ones.

Constants, arbitrary labels, names, words to put around or into the message, and numbers. The inputs
are everyday sentences and inputs of real tasks, so that only the description tells what is asked.
Words are kept for validation by their hash, so that copying has to be learnt and not a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING, Any

import yaml

from text_to_lora.tasks.label_sets import UNSEEN_WORDS, VALIDATION_WORDS
from text_to_lora.tasks.task import Metric, Task
from text_to_lora.tasks.wordings import choose

if TYPE_CHECKING:
    from text_to_lora.tasks.families import Row, Split

EXACT_MATCH = Metric("exact_match")
ROWS_PER_TASK = 36
VALIDATION_ROWS = 4  # of these, in a training task
DESCRIPTIONS_PER_TASK = 16
NUM_SENTENCES = {"train": 6000, "validation": 30_000}
"""Sentences written from templates; of those for validation, the tenth is kept."""
REAL_INPUTS_PER_TASK = 12
MAX_REAL_WORDS = 50
HELD_OUT_WORDS = UNSEEN_WORDS | VALIDATION_WORDS | {"lantern", "plumbum"}
"""Never in training, whatever their hash says."""

ONSETS = (
    "b",
    "bl",
    "br",
    "c",
    "cr",
    "d",
    "dr",
    "f",
    "fl",
    "fr",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "pr",
    "qu",
    "r",
    "s",
    "sk",
    "sl",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ea", "oo", "ou")
CODAS = ("", "", "", "", "n", "r", "l", "m", "k", "x", "ck", "sh", "nd", "rt", "st", "p")
THINGS = ("cat", "dog", "boat", "car", "house", "school", "team", "river", "horse", "band", "shop")
GREETINGS = (
    "Welcome to <word>!",
    "Good morning from <word>!",
    "<word> at your service.",
    "Thank you for visiting <word>.",
    "Hello, this is <word>.",
)


@cache
def _data(name: str) -> Any:
    """Read one of the YAML files beside this module."""
    text = (files("text_to_lora.tasks") / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def is_held_out(word: str) -> bool:
    """Tell whether a word, name or code is kept for validation, the same in every process."""
    word = word.casefold()
    return word in HELD_OUT_WORDS or sha256(word.encode()).digest()[0] % 10 == 0


class WordPool:
    """The words that descriptions of one split may ask for.

    Training and validation share no word; parts of a phrase are of the same split.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self._held_out = split == "validation"
        lists = _data("words")
        self.common = [w for w in lists["common"].split() if is_held_out(w) == self._held_out]
        self.rare = [w for w in lists["rare"].split() if is_held_out(w) == self._held_out]

    def word(self, rng: Random) -> str:
        """Draw one word in small letters: common, rare or invented."""
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(self.common)
        return rng.choice(self.rare) if kind < 0.75 else self.invented(rng)

    def invented(self, rng: Random) -> str:
        """Draw a word made of two or three syllables, or of a long one."""

        def syllables() -> str:
            count = rng.choice((1, 2, 2, 2, 3))
            text = "".join(
                rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if last else "")
                for last in [False] * (count - 1) + [True]
            )
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
        """Draw distinct label words of one kind and one case."""
        kind = rng.choice((self.word, self.word, self.word, self.invented, self.code))
        style = rng.choice((str, str, str, str.capitalize, str.upper))
        drawn: dict[str, str] = {}
        while len(drawn) < count:
            label = kind(rng)
            drawn[label.casefold()] = label if kind == self.code else style(label)
        return list(drawn.values())

    def _drawn(self, draw: Callable[[], str]) -> str:
        while is_held_out(text := draw()) != self._held_out:
            pass
        return text


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
        self.trained = tuple(message for message in self.all if message.digit != 9)
        self.held_out = tuple(message for message in self.all if message.digit == 9)


class Messages:
    """The inputs of the word families for one split.

    sentences: everyday sentences and questions; opinions, counts: of their kinds; mixed: sentences
        and cut inputs of real tasks, as many of each; short: those of 2 to 12 words
    mentioned: for words that many sentences have, these sentences
    """

    def __init__(self, tasks: Sequence[Task], split: Split, rng: Random) -> None:
        self.split = split
        written = _data("everyday")
        self.sentences = self._write(
            [
                (text, kind, topic)
                for topic, kinds in written["topics"].items()
                for kind, texts in kinds.items()
                for text in texts
            ],
            rng,
        )
        self.opinions = self._write(
            [
                (text, kind, "opinion")
                for kind, texts in written["opinions"].items()
                for text in texts
            ],
            rng,
        )
        self.counts = self._write([(text, "count", "number") for text in written["counts"]], rng)
        real = [
            _message(" ".join(example.input.split(" ")[:MAX_REAL_WORDS]), digit)
            for task in tasks
            for example in rng.sample(task.examples, min(len(task.examples), REAL_INPUTS_PER_TASK))
            if example.input.strip() and self._takes(digit := example.idx % 10)
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

    def _takes(self, digit: int) -> bool:
        return self.split == "train" or digit == 9

    def _write(self, templates: Sequence[tuple[str, str, str]], rng: Random) -> Inputs:
        """Fill every template in many ways; the digit of a sentence is a hash of it."""
        drawn: dict[str, Message] = {}
        for place in range(NUM_SENTENCES[self.split]):
            template, kind, topic = templates[place % len(templates)]
            text = _filled(template, rng)
            digit = sha256(text.encode()).digest()[0] % 10
            if self._takes(digit):
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
    ) -> list[Row]:
        """Draw rows; with `num_answers` about as many of each answer.

        In training VALIDATION_ROWS rows have an idx that ends in 9; in validation all have.
        """
        validation = VALIDATION_ROWS if self.split == "train" else ROWS_PER_TASK
        rows: list[Row] = []
        for messages, count in (
            (inputs.trained, ROWS_PER_TASK - validation),
            (inputs.held_out, validation),
        ):
            share = -(-count // max(num_answers, 1))
            drawn: dict[str, int] = {}
            part: dict[str, Row] = {}
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


def _filled(template: str, rng: Random) -> str:
    values = _data("everyday")["values"]
    text = re.sub(r"<([a-z]+)>", lambda match: str(rng.choice(values[match[1]])), template)
    return text[:1].upper() + text[1:]


# Descriptions


def describe(
    name: str, rng: Random, split: Split, values: Mapping[str, str | Sequence[str]]
) -> tuple[str, ...]:
    """Draw distinct descriptions in the manner in which people write them.

    name: of the wordings; values: for a slot the text as it has to stand, or texts to choose from
    """
    wordings = _data("word_wordings")[name]
    templates = wordings["train"] + (wordings["validation"] if split == "validation" else [])
    return _descriptions(templates, rng, values)


def _descriptions(
    templates: Sequence[str], rng: Random, values: Mapping[str, str | Sequence[str]]
) -> tuple[str, ...]:
    def value(match: re.Match[str]) -> str:
        text = values[match[1]]
        return text if isinstance(text, str) else rng.choice(text)

    texts: dict[str, None] = {}
    order: list[str] = []
    for _ in range(4 * DESCRIPTIONS_PER_TASK):
        if not order:
            order = rng.sample(templates, len(templates))
        template = choose(order.pop(), rng)
        # A slot that holds wording of its own is filled first, so that it is careless too.
        while "<cond>" in template or "<choices>" in template:
            template = re.sub(r"<(cond|choices)>", value, template)
        texts[re.sub(r"<([a-z0-9]+)>", value, careless(template, rng))] = None
        if len(texts) == DESCRIPTIONS_PER_TASK:
            break
    return tuple(texts)


def careless(template: str, rng: Random) -> str:
    """Give a description as somebody might type it; slots in angle brackets stay as they are."""
    extra = _data("word_wordings")["prefixes"]
    kind = rng.random()
    if kind < 0.06:
        template = rng.choice(extra["polite"]) + template
    elif kind < 0.12:
        template = rng.choice(extra["long"]) + template
    elif kind < 0.24:
        template += "" if template[-1] in ".?!\"'" else "."
        template += rng.choice(extra["suffixes" if kind < 0.18 else "closing"])
    if rng.random() < 0.3:
        template = _outside_slots(template, str.lower)
    elif not template.startswith("<"):
        template = template[:1].upper() + template[1:]
    if rng.random() < 0.3:
        template = template.removesuffix(".")
    if rng.random() < 0.12:
        template = _outside_slots(template, lambda text: _misspelt(text, rng))
    return template


def _outside_slots(template: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(<[a-z0-9]+>)", template)
    return "".join(part if place % 2 else change(part) for place, part in enumerate(parts))


def _misspelt(text: str, rng: Random) -> str:
    """Spell about one word in six wrong: two letters exchanged, one left out, or one doubled."""

    def spell(match: re.Match[str]) -> str:
        word = match[0]
        place = rng.randrange(1, len(word) - 1)
        kind = rng.randrange(18)
        if kind == 0:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        if kind == 1:
            return word[:place] + word[place + 1 :]
        return word[:place] + word[place] + word[place:] if kind == 2 else word

    return re.sub(r"[A-Za-z]{4,}", spell, text)


# Families


@dataclass(frozen=True)
class WordDraft:
    """A task before it has a name."""

    descriptions: tuple[str, ...]
    rows: Sequence[Row]
    metric: Metric = EXACT_MATCH


@dataclass(frozen=True)
class WordFamily:
    """A kind of word task.

    weight: tasks that it gives in each round; splits: those in which it is made
    """

    name: str
    explanation: str
    weight: int
    make: Callable[[Random, WordPool, Messages], WordDraft]
    splits: tuple[Split, ...] = ("train", "validation")


def _constant(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    word = pool.answer(rng)
    return WordDraft(
        describe("constant", rng, messages.split, {"word": word}),
        messages.rows(rng, messages.mixed, lambda message: word),
    )


def _capital_constant(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    word = pool.phrase(rng) if rng.random() < 0.15 else pool.word(rng)
    return WordDraft(
        describe("capital_constant", rng, messages.split, {"word": word}),
        messages.rows(rng, messages.mixed, lambda message: word.upper()),
    )


def _own_name(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    name = pool.name(rng)
    return WordDraft(
        describe("own_name", rng, messages.split, {"word": name}),
        messages.rows(rng, messages.mixed, lambda message: name),
    )


def _greeting(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    name = pool.name(rng)
    greeting = rng.choice(GREETINGS).replace("<word>", name)
    return WordDraft(
        describe("greeting", rng, messages.split, {"word": name, "greeting": greeting}),
        messages.rows(rng, messages.mixed, lambda message: greeting),
    )


def _chosen_name(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    first, second = pool.labels(rng, 2)
    thing, other = rng.sample(THINGS, 2)
    values = {"word1": first, "word2": second, "thing1": thing, "thing2": other}
    return WordDraft(
        describe("chosen_name", rng, messages.split, values),
        messages.rows(rng, messages.mixed, lambda message: first),
    )


def _around(name: str, place: Callable[[Message, str], str | None]) -> Callable[..., WordDraft]:
    """Make a maker of tasks that put the word somewhere into the message."""

    def make(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
        word = pool.answer(rng)
        return WordDraft(
            describe(name, rng, messages.split, {"word": word}),
            messages.rows(rng, messages.short, lambda message: place(message, word)),
        )

    return make


def _neighbour(name: str, step: int) -> Callable[..., WordDraft]:
    """Make a maker of tasks that ask for the word beside a word which is put into the messages."""

    def make(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
        word = pool.word(rng)
        rows = []
        for text, _, digit in messages.rows(rng, messages.short, lambda message: ""):
            words = text.split()
            place = rng.randrange(1, len(words))
            neighbour = words[place - 1 if step < 0 else place]
            if word not in words and neighbour.isalnum():
                rows.append((" ".join([*words[:place], word, *words[place:]]), (neighbour,), digit))
        return WordDraft(describe(name, rng, messages.split, {"word": word}), rows)

    return make


def _numbered(
    name: str, low: int, high: int, compute: Callable[[Message, int], str | None]
) -> Callable[..., WordDraft]:
    """Make a maker of tasks that copy a part of the message that a number tells."""
    words = ("", "one", "two", "three", "four", "five", "six", "seven")

    def make(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
        number = rng.randint(low, high)
        return WordDraft(
            describe(name, rng, messages.split, {"n": [str(number), words[number]]}),
            messages.rows(rng, messages.short, lambda message: compute(message, number)),
        )

    return make


def _repeat_word(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    word, number = pool.word(rng), rng.randint(2, 5)
    values = {"word": word, "n": [str(number), ("two", "three", "four", "five")[number - 2]]}
    return WordDraft(
        describe("repeat_word", rng, messages.split, values),
        messages.rows(rng, messages.mixed, lambda message: " ".join([word] * number)),
    )


def _sum(name: str, sign: int) -> Callable[..., WordDraft]:
    """Make a maker of tasks that add a number to the one in the message, or take it away."""

    def make(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
        number = rng.randint(1, rng.choice((9, 20, 50)))

        def compute(message: Message) -> str | None:
            (digits,) = re.findall(r"\d+", message.text)
            result = int(digits) + sign * number
            return str(result) if result >= 0 else None

        return WordDraft(
            describe(name, rng, messages.split, {"n": str(number)}),
            messages.rows(rng, messages.counts, compute),
        )

    return make


Condition = tuple[str, dict[str, str], Callable[[Message], bool], Inputs]


def _condition(rng: Random, messages: Messages) -> Condition:
    """Draw a property of a message: its name, the values of its wordings, its test, and inputs."""
    name = rng.choice(("question", "question", "number", "longer", "vowel", "mentions", "request"))
    number = rng.randint(4, 7)
    target = rng.choice(list(messages.mentioned))
    tests: dict[str, Callable[[Message], bool]] = {
        "question": lambda m: m.kind == "question",
        "request": lambda m: m.kind == "request",
        "number": lambda m: bool(re.search(r"\d", m.text)),
        "longer": lambda m: len(m.words) > number,
        "vowel": lambda m: m.text[0].lower() in "aeiou",
        "mentions": lambda m: target in plain_words(m.text),
    }
    inputs = messages.sentences
    if name == "mentions":
        mentioning = messages.mentioned[target]
        inputs = Inputs([*mentioning, *rng.sample(inputs.all, 2 * len(mentioning))])
    return name, {"n": str(number), "target": target}, tests[name], inputs


def _labelled(name: str) -> Callable[..., WordDraft]:
    """Make a maker of tasks that label a message by whether it has a property."""

    def make(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
        capitals = name == "capital_labels"
        yes, no = [pool.word(rng) for _ in range(2)] if capitals else pool.labels(rng, 2)
        property_name, slots, holds, inputs = _condition(rng, messages)
        phrases = [
            choose(text, rng) for text in _data("word_wordings")["conditions"][property_name]
        ]
        values = {**slots, "yes": yes, "no": no, "cond": phrases}
        labels = (yes.upper(), no.upper()) if capitals else (yes, no)
        return WordDraft(
            describe(name, rng, messages.split, values),
            messages.rows(
                rng,
                inputs,
                lambda message: labels[0] if holds(message) else labels[1],
                num_answers=2,
            ),
            Metric("classification", labels),
        )

    return make


KIND_NAMES = {
    "question": ("questions", "a question", "I ask something"),
    "statement": ("statements", "a statement", "I tell you something"),
    "request": ("requests", "a request", "I want you to do something"),
}
TOPIC_NAMES = {
    "food": ("food", "about food", "I talk about food"),
    "animals": ("animals", "about animals", "I talk about an animal"),
    "weather": ("weather", "about the weather", "the weather comes up"),
    "travel": ("travel", "about travel", "it is about a journey"),
    "work": ("work", "about work", "it is about the office"),
    "home": ("home", "about the home", "it is about the house"),
}


def _several_labels(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    names, by_kind = (KIND_NAMES, True) if rng.random() < 0.4 else (TOPIC_NAMES, False)
    chosen = rng.sample(list(names), 3 if by_kind else rng.randint(2, 4))
    label_of = dict(zip(chosen, pool.labels(rng, len(chosen)), strict=True))
    slots = {f"l{place}": label_of[name] for place, name in enumerate(chosen)}
    forms = (
        lambda place, name: f"<l{place}> for {names[name][0]}",
        lambda place, name: f"<l{place}> if it is {names[name][1]}",
        lambda place, name: f"<l{place}> when {names[name][2]}",
    )
    choices = []
    for _ in range(DESCRIPTIONS_PER_TASK):
        form = rng.choice(forms)
        parts = [form(place, name) for place, name in enumerate(chosen)]
        rng.shuffle(parts)
        choices.append(", ".join(parts[:-1]) + rng.choice((" and ", ", ", " or ")) + parts[-1])
    return WordDraft(
        describe("several", rng, messages.split, {**slots, "choices": choices}),
        messages.rows(
            rng,
            messages.sentences,
            lambda message: label_of.get(message.kind if by_kind else message.topic),
            num_answers=len(chosen),
        ),
        Metric("classification", tuple(label_of.values())),
    )


def _sentiment(rng: Random, pool: WordPool, messages: Messages) -> WordDraft:
    yes, no = pool.labels(rng, 2)
    return WordDraft(
        describe("sentiment", rng, messages.split, {"yes": yes, "no": no}),
        messages.rows(
            rng,
            messages.opinions,
            lambda message: yes if message.kind == "good" else no,
            num_answers=2,
        ),
        Metric("classification", (yes, no)),
    )


def _first_words(message: Message, number: int) -> str | None:
    return " ".join(message.words[:number]) if len(message.words) > number else None


def _rest(words: Sequence[str]) -> str | None:
    return " ".join(words) if len(words) > 1 else None


WORD_FAMILIES: tuple[WordFamily, ...] = (
    WordFamily("word_constant", "the words that the description gives, always", 30, _constant),
    WordFamily("word_capitals", "a given word, in capitals", 4, _capital_constant),
    WordFamily("word_name", "a name that the description tells", 6, _own_name),
    WordFamily("word_greeting", "a greeting with a given name", 3, _greeting),
    WordFamily("word_chosen_name", "one of two given names", 8, _chosen_name),
    WordFamily(
        "word_start",
        "a given word and then the message",
        7,
        _around("start", lambda m, word: f"{word} {m.text}"),
    ),
    WordFamily(
        "word_end",
        "the message and then a given word",
        7,
        _around("end", lambda m, word: f"{m.text} {word}"),
    ),
    WordFamily(
        "word_between",
        "the message with a given word after its first",
        3,
        _around("between", lambda m, word: _rest([m.words[0], word, *m.words[1:]])),
    ),
    WordFamily(
        "word_replace_first",
        "the message with a given word for its first",
        3,
        _around("replace_first", lambda m, word: _rest([word, *m.words[1:]])),
    ),
    WordFamily(
        "word_replace_last",
        "the message with a given word for its last",
        3,
        _around("replace_last", lambda m, word: _rest([*m.words[:-1], word])),
        ("validation",),
    ),
    WordFamily(
        "word_both_ends",
        "the message between a given word and the same again",
        3,
        _around("both_ends", lambda m, word: f"{word} {m.text} {word}"),
        ("validation",),
    ),
    WordFamily("word_next", "the word after a given one", 3, _neighbour("word_after", 1)),
    WordFamily("word_previous", "the word before a given one", 3, _neighbour("word_before", -1)),
    WordFamily(
        "word_first_words",
        "as many first words as told",
        4,
        _numbered("first_words", 2, 6, _first_words),
    ),
    WordFamily(
        "word_repeat",
        "the message as many times as told",
        2,
        _numbered(
            "repeat", 2, 3, lambda m, n: " ".join([m.text] * n) if len(m.words) < 8 else None
        ),
    ),
    WordFamily("word_times", "a given word as many times as told", 3, _repeat_word),
    WordFamily("word_add", "the number of the message plus a given one", 3, _sum("add", 1)),
    WordFamily(
        "word_subtract", "the number of the message less a given one", 2, _sum("subtract", -1)
    ),
    WordFamily(
        "word_labels", "given words for a property of the message", 20, _labelled("condition")
    ),
    WordFamily("word_capital_labels", "given words, in capitals", 4, _labelled("capital_labels")),
    WordFamily("word_several_labels", "given words for kinds or topics", 8, _several_labels),
    WordFamily("word_sentiment", "given words for good and bad opinions", 6, _sentiment),
)


RENAMED_SHARE = 0.12
"""Share of the word tasks that are real tasks with words of the pool for their labels."""


def word_drafts(
    tasks: Sequence[Task], pool: WordPool, *, seed: int
) -> Iterator[tuple[WordFamily, WordDraft]]:
    """Make word tasks without end; equal arguments give equal tasks."""
    split = pool.split
    messages = Messages(tasks, split, Random(f"{seed}/{split}/messages"))
    rounds = [f for f in WORD_FAMILIES if split in f.splits for _ in range(f.weight)]
    attempt = 0
    while True:
        rng = Random(f"{seed}/{split}/words/{attempt}")
        if attempt % len(rounds) == 0:
            rng.shuffle(rounds)
        family = rounds[attempt % len(rounds)]
        yield family, family.make(rng, pool, messages)
        attempt += 1


@dataclass(frozen=True)
class Probe:
    """A description with an unseen word, an input, and the one right answer.

    kind: "constant", "label", "start" or "end"
    """

    kind: str
    description: str
    input: str
    answer: str


def word_probe(seed: int, count: int) -> list[Probe]:
    """Make probes of words that no training task has, to count exact answers.

    Half ask for a constant of one word, a quarter for one of two labels, an eighth each to start or
    to end with a word.
    """
    pool = WordPool("validation")
    messages = Messages((), "validation", Random(f"{seed}/probe"))
    plan = ("constant", "label", "constant", "start", "constant", "label", "constant", "end")
    probes = []
    for place in range(count):
        rng = Random(f"{seed}/probe/{place}")
        kind = plan[place % len(plan)]
        if kind == "label":
            draft = _labelled("condition")(rng, pool, messages)
        else:
            word, message = pool.word(rng), rng.choice(messages.short.all)
            answer = {"constant": word, "start": f"{word} {message.text}"}.get(
                kind, f"{message.text} {word}"
            )
            draft = WordDraft(
                describe(kind, rng, "validation", {"word": word}), [(message.text, (answer,), 9)]
            )
        text, outputs, _ = rng.choice(draft.rows)
        probes.append(Probe(kind, rng.choice(draft.descriptions), text, outputs[0]))
    return probes
