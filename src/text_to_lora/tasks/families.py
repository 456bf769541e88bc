"""Families of tasks whose input does not tell the task: only the description does.

Most real inputs betray their task, so that training hardly needs the description. Here the same
real inputs come back under many tasks: renamed labels, formats of the answer, inverse tasks,
operations on the text, choice of a field or position, constant answers. Every task has its own
parameters (words, letters, positions, labels) and many wordings.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from random import Random
from typing import Any, Literal, TypeVar

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.label_sets import (
    LABEL_SETS,
    UNSEEN_WORDS,
    VALIDATION_LABEL_SETS,
    VALIDATION_WORDS,
    YES_NO_WORDS,
)
from text_to_lora.tasks.task import Example, Metric, Task, distinct_texts
from text_to_lora.tasks.word_families import (
    RENAMED_SHARE,
    WORD_FAMILIES,
    WordPool,
    word_drafts,
)
from text_to_lora.tasks.wordings import CONDITION_FRAMES, NOUN_FRAMES, VERB_FRAMES, wordings

Split = Literal["train", "validation"]

VALIDATION_FAMILIES: tuple[str, ...] = (
    "last_words",
    "shortest_word",
    "swap_ends",
    "title_case",
    "count_words_with_letter",
    "ends_with_letter",
    "answer_in_brackets",
    "one_label_or_not",
    "longest_item",
    "word_replace_last",
    "word_both_ends",
)
"""Never in training, so that validation asks for operations that were not practised.

One or two of each kind (part of the text, rewriting, number, yes or no, format of the answer, labels,
position), each near to a family that is trained (last_word, longest_word, first_word, ...): following
the new description must be possible, repeating a trained task must fail.
"""

EXAMPLES_PER_TASK = 64
MIN_EXAMPLES = 16
DESCRIPTIONS_PER_TASK = 16
TEXTS_PER_TASK = 16  # inputs that one source task adds to the common texts
MAX_INPUT_WORDS = 60
MAX_DESCRIPTION_WORDS = 60

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
NUMBERS = ("one", "two", "three", "four", "five", "six")


@dataclass(frozen=True, slots=True)
class Text:
    """A short real input, its words without punctuation, and the last digit of its idx."""

    text: str
    words: tuple[str, ...]
    digit: int


_END = {"first": 0, "last": -1}
_SIGNS = {
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
FIELD_NAMES = (
    "Left", "Right", "Name", "Note", "Title", "Comment", "Subject", "Message", "Remark", "Entry",
    "Key", "Value", "Alpha", "Beta", "Mail", "Memo", "Front", "Back", "Top", "Bottom", "Old", "New",
    "Source", "Target", "Before", "After", "Morning", "Evening", "Hint", "Plan",
)
# fmt: on

Row = tuple[str, tuple[str, ...], int]
"""A row of a synthetic task: input, outputs, last digit of its idx."""


EXACT_MATCH = Metric("exact_match")


@dataclass(frozen=True)
class Draft:
    """A synthetic task before it has a name."""

    descriptions: tuple[str, ...]
    rows: Sequence[Row]
    metric: Metric = EXACT_MATCH
    origin: Task | None = None


@dataclass(frozen=True)
class Family:
    """A kind of synthetic task.

    weight: tasks that it gives in each round over all families; more where parameters are many
    """

    name: str
    explanation: str
    weight: int
    make: Callable[[Random, Source], Draft | None]


Kept = TypeVar("Kept", bound=tuple[Any, ...])


class Source:
    """The real inputs that families draw on, for one split."""

    def __init__(self, tasks: Sequence[Task], split: Split, rng: Random) -> None:
        self.split = split
        self.texts: list[Text] = []
        self.labelled: list[Task] = []
        self.answered: list[Task] = []
        self.paired: list[Task] = []
        self.records: list[tuple[Task, tuple[str, ...], list[tuple[Example, tuple[str, ...]]]]] = []
        for task in tasks:
            examples = [example for example in task.examples if self.takes(example)]
            rng.shuffle(examples)
            self.texts += [text for text in map(_as_text, examples[:TEXTS_PER_TASK]) if text]
            if _short_description(task) is not None:
                if task.metric.kind == "classification" and 2 <= len(task.metric.labels) <= 6:
                    self.labelled.append(task)
                self._add_answers(task, examples)
            self._add_records(task, examples)
        self.texts = list({text.text: text for text in self.texts}.values())
        words = {word.lower() for text in self.texts for word in text.words}
        self.vocabulary = sorted(
            word
            for word in words - UNSEEN_WORDS - (VALIDATION_WORDS if split == "train" else set())
            if re.fullmatch("[a-z]{3,9}", word) and _held_out(word) == (split == "validation")
        )

    def takes(self, example: Example) -> bool:
        """Tell whether an example may be used; validation never shares an input with training."""
        return self.split == "train" or example.idx % 10 == 9

    def limit(self, rows: Sequence[Kept]) -> list[Kept]:
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
        layouts: dict[tuple[str, ...], list[tuple[Example, tuple[str, ...]]]] = {}
        for example in examples[:200]:
            fields = _fields(example.input)
            if fields and len(example.input.split()) <= MAX_INPUT_WORDS:
                layouts.setdefault(tuple(fields), []).append((example, tuple(fields.values())))
        for names, rows in layouts.items():
            if len(rows) >= MIN_EXAMPLES:
                self.records.append((task, names, rows))


def families(
    tasks: Sequence[Task],
    *,
    seed: int,
    split: Split = "train",
    num_tasks: int = 800,
    word_share: float = 0.5,
) -> list[Task]:
    """Make synthetic tasks over the inputs of training tasks; equal arguments give equal tasks.

    The example's idx ends in 9 exactly where its source's did, so `Task.training()` and
    `Task.validation()` never share an input. With split "validation" the families of
    `VALIDATION_FAMILIES` are made, and the label families with label sets and words of validation,
    over inputs whose idx ends in 9.

    word_share: share of the tasks that are of the word families, whose description carries the
        words of the answer; validation has words and some wordings of its own

    Raises ConfigError for a task of a held-out split, an unknown split, a share that is not from 0
    to 1, or tasks with too few short inputs.
    """
    if not 0 <= word_share <= 1:
        raise ConfigError(f"word_share is {word_share}; give a share from 0 to 1")
    if split not in ("train", "validation"):
        raise ConfigError(f"families for split {split!r}; choose 'train' or 'validation'")
    for task in tasks:
        if task.split not in ("train", "train_noncommercial"):
            raise ConfigError(
                f"task {task.name!r} is of split {task.split!r}; families are made of training tasks"
            )
    source = Source(tasks, split, Random(f"{seed}/{split}"))
    if len(source.texts) < MIN_EXAMPLES or len(source.vocabulary) < MIN_EXAMPLES:
        raise ConfigError(
            f"families need {MIN_EXAMPLES} inputs of 3 to 30 plain words and as many different "
            f"words; the tasks have {len(source.texts)} and {len(source.vocabulary)}; add tasks"
        )
    num_words = round(num_tasks * word_share)
    num_others = num_tasks - num_words
    made: list[Task] = []
    held_out = {example.input.strip() for task in tasks for example in task.validation()}
    rounds = _rounds(split)
    attempt = 0
    while len(made) < num_others:
        if attempt > 100 * (num_others + len(rounds)):
            raise ConfigError(f"only {len(made)} of {num_others} families could be made; add tasks")
        rng = Random(f"{seed}/{split}/{attempt}")
        if attempt % len(rounds) == 0:
            rng.shuffle(rounds)
        family = rounds[attempt % len(rounds)]
        draft = family.make(rng, source)
        attempt += 1
        if draft is not None:
            rows = _apart(draft.rows, held_out)
            if len(rows) >= MIN_EXAMPLES:
                made.append(_finish(family.name, draft, rows, f"{split}.{len(made)}"))
    pool = WordPool(split)
    drafts = iter(word_drafts(tasks, pool, seed=seed))
    attempt = 0
    while len(made) < num_tasks:
        rng = Random(f"{seed}/{split}/renamed/{attempt}")
        attempt += 1
        if source.labelled and rng.random() < RENAMED_SHARE:
            task = rng.choice(source.labelled)
            words = pool.labels(rng, len(task.metric.labels))
            draft = _relabelled(
                rng, source, task, dict(zip(task.metric.labels, words, strict=True))
            )
            name = "word_renamed_labels"
        else:
            word_family, word_draft = next(drafts)
            name = word_family.name
            draft = Draft(word_draft.descriptions, word_draft.rows, word_draft.metric)
        rows = _apart(draft.rows, held_out)
        if len(rows) >= MIN_EXAMPLES:
            made.append(_finish(name, draft, rows, f"{split}.{len(made)}"))
    return made


def _apart(rows: Sequence[Row], held_out: set[str]) -> list[Row]:
    """Leave out the rows of training whose input is one of validation."""
    own = {text for text, _, digit in rows if digit == 9}
    return [
        row
        for row in rows
        if row[2] == 9 or not (row[0].strip() in held_out or row[0].strip() in own)
    ]


def registry() -> dict[str, str]:
    """Give every family's name with one line that explains it."""
    return {
        **{family.name: family.explanation for family in FAMILIES},
        **{family.name: family.explanation for family in WORD_FAMILIES},
        "word_renamed_labels": "a real task with given words for its labels",
    }


def _rounds(split: Split) -> list[Family]:
    """Give one round of families, each as often as it weighs."""
    if split == "train":
        chosen = [family for family in FAMILIES if family.name not in VALIDATION_FAMILIES]
        return [family for family in chosen for _ in range(family.weight)]
    names = (*VALIDATION_FAMILIES, "renamed_labels", "constant")
    return [family for family in FAMILIES if family.name in names for _ in range(2)]


def _finish(family: str, draft: Draft, rows: Sequence[Row], number: str) -> Task:
    return Task(
        name=f"family.{family}.{number}",
        definition="",
        descriptions=draft.descriptions,
        examples=tuple(
            Example(text, outputs, 10 * place + digit)
            for place, (text, outputs, digit) in enumerate(rows)
        ),
        metric=draft.metric,
        license=draft.origin.license if draft.origin else "as the training tasks that it draws on",
        source=f"family:{family}",
        group=f"family:{family}",
        category="family",
    )


# Texts


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


def _short_description(task: Task) -> str | None:
    for text in task.descriptions:
        if len(text.split()) <= MAX_DESCRIPTION_WORDS:
            return text
    return None


def _task_phrases(task: Task, rng: Random) -> list[str]:
    """Give a task's short descriptions as values, each ending a sentence."""
    texts = [text for text in task.descriptions if len(text.split()) <= MAX_DESCRIPTION_WORDS]
    chosen = rng.sample(texts, min(len(texts), DESCRIPTIONS_PER_TASK))
    return [text if text[-1] in ".!?:" else f"{text}." for text in chosen]


def _held_out(word: str) -> bool:
    """Keep every tenth word for validation, the same in every process."""
    return sha256(word.encode()).digest()[0] % 10 == 0


def _pick(
    rng: Random,
    source: Source,
    compute: Callable[[Text], str | None],
    *,
    max_words: int = 30,
    balance: bool = False,
) -> list[Row]:
    """Draw rows over the common texts; with `balance`, as many of one answer as of another."""
    by_answer: dict[str, list[Row]] = {}
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
    return source.limit(_in_turns(rows[:fewest] for rows in by_answer.values()))


def _in_turns(lists: Iterable[Sequence[Row]]) -> list[Row]:
    """Join lists, one row of each in turn, so that answers come evenly."""
    return [row for turn in zip_longest(*lists) for row in turn if row is not None]


# Operations on the text

Values = dict[str, str]
Parameters = Callable[[Random, Source], Values]


def _text_family(
    name: str,
    explanation: str,
    *,
    frames: Sequence[str],
    slot: str,
    phrases: Sequence[str],
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters = lambda rng, source: {},
    weight: int = 2,
    max_words: int = 30,
) -> Family:
    def make(rng: Random, source: Source) -> Draft:
        values = parameters(rng, source)
        return Draft(
            wordings(
                frames, rng, count=DESCRIPTIONS_PER_TASK, phrases={slot: phrases}, values=values
            ),
            _pick(rng, source, lambda text: compute(text, values), max_words=max_words),
        )

    return Family(name, explanation, weight, make)


def _condition_family(
    name: str,
    explanation: str,
    phrases: Sequence[str],
    holds: Callable[[Text, Values], bool],
    parameters: Parameters = lambda rng, source: {},
    weight: int = 3,
) -> Family:
    def make(rng: Random, source: Source) -> Draft:
        yes, no = source.yes_no(rng)
        values = {**parameters(rng, source), "yes": yes, "no": no}
        return Draft(
            wordings(
                CONDITION_FRAMES,
                rng,
                count=DESCRIPTIONS_PER_TASK,
                phrases={"cond": phrases},
                values=values,
            ),
            _pick(
                rng,
                source,
                lambda text: yes if holds(text, values) else no,
                balance=True,
            ),
            Metric("classification", (yes, no)),
        )

    return Family(name, explanation, weight, make)


def _position(low: int, high: int) -> Parameters:
    def draw(rng: Random, source: Source) -> Values:
        n = rng.randint(low, high)
        return {"n": str(n), "number": NUMBERS[n - 1], "nth": ORDINALS[n - 1]}

    return draw


def _one_letter(letters: str) -> Parameters:
    return lambda rng, source: {"letter": rng.choice(letters)}


def _one_word(rng: Random, source: Source) -> Values:
    return {"word": source.word(rng)}


def _at(words: Sequence[str], place: int) -> str | None:
    return words[place] if -len(words) <= place < len(words) else None


def _longest(words: Sequence[str]) -> str | None:
    length = max(map(len, words))
    longest = [word for word in words if len(word) == length]
    return longest[0] if len(longest) == 1 else None


def _shortest(words: Sequence[str]) -> str | None:
    length = min(map(len, words))
    shortest = [word for word in words if len(word) == length]
    return shortest[0] if len(shortest) == 1 else None


def _count_letter(text: str, letter: str) -> int:
    return text.lower().count(letter)


def _noun(
    name: str,
    explanation: str,
    phrases: Sequence[str],
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters = lambda rng, source: {},
    weight: int = 2,
) -> Family:
    return _text_family(
        name,
        explanation,
        frames=NOUN_FRAMES,
        slot="np",
        phrases=phrases,
        compute=compute,
        parameters=parameters,
        weight=weight,
    )


def _verb(
    name: str,
    explanation: str,
    phrases: Sequence[str],
    compute: Callable[[Text, Values], str | None],
    parameters: Parameters = lambda rng, source: {},
    weight: int = 2,
) -> Family:
    return _text_family(
        name,
        explanation,
        frames=VERB_FRAMES,
        slot="vp",
        phrases=phrases,
        compute=compute,
        parameters=parameters,
        weight=weight,
        max_words=10,
    )


FIRST_WORD = (
    "first word",
    "[opening|initial|very first] word",
    "word [at the start|that comes first]",
)
LAST_WORD = ("last word", "[closing|final|very last] word", "word [at the end|that comes last]")
LONGEST_WORD = ("longest word", "word with the most letters", "[lengthiest|biggest] word")

_NOUN_FAMILIES = (
    _noun("first_word", "the first word", FIRST_WORD, lambda t, v: t.words[0], weight=3),
    _noun("last_word", "the last word", LAST_WORD, lambda t, v: t.words[-1], weight=3),
    _noun(
        "nth_word",
        "the second to fifth word",
        (
            "<nth> word",
            "word number <n>",
            "word [in place <n>|at position <n>]",
            "<nth> of the words",
        ),
        lambda t, v: _at(t.words, int(v["n"]) - 1),
        _position(2, 5),
        4,
    ),
    _noun(
        "nth_word_from_end",
        "the second to fourth word, counted from the end",
        (
            "<nth> word from the end",
            "<nth> word counted [from the back|backwards]",
            "word number <n> from the end",
            "<nth>-to-last word",
        ),
        lambda t, v: _at(t.words, -int(v["n"])),
        _position(2, 4),
        4,
    ),
    _noun(
        "first_words",
        "the first two to five words",
        (
            "first <number> words",
            "opening <number> words",
            "<number> words at the start",
            "first <n> words",
        ),
        lambda t, v: " ".join(t.words[: int(v["n"])]) if len(t.words) >= int(v["n"]) else None,
        _position(2, 5),
        4,
    ),
    _noun(
        "last_words",
        "the last two to five words",
        (
            "last <number> words",
            "closing <number> words",
            "<number> words at the end",
            "last <n> words",
        ),
        lambda t, v: " ".join(t.words[-int(v["n"]) :]) if len(t.words) >= int(v["n"]) else None,
        _position(2, 5),
        4,
    ),
    _noun("longest_word", "the longest word", LONGEST_WORD, lambda t, v: _longest(t.words)),
    _noun(
        "shortest_word",
        "the shortest word",
        ("shortest word", "word with the fewest letters", "[smallest|briefest] word"),
        lambda t, v: _shortest(t.words),
    ),
    _noun(
        "count_words",
        "the number of words, in digits",
        ("word count", "[total |]number of words", "length in words", "count of [its |]words"),
        lambda t, v: str(len(t.words)),
        weight=3,
    ),
    _noun(
        "count_letters",
        "the number of letters of the first or last word, in digits",
        (
            "number of letters in the <end> word",
            "letter count of the <end> word",
            "length of the <end> word[, in letters|]",
        ),
        lambda t, v: str(len(w)) if (w := t.words[_END[v["end"]]]).isalpha() else None,
        lambda rng, source: {"end": rng.choice(list(_END))},
        3,
    ),
    _noun(
        "count_letter",
        "how often a letter occurs, in digits",
        (
            "number of times the letter <letter> [occurs|appears]",
            "number of <letter>'s",
            "count of the letter '<letter>'",
            "[total|number] of letters '<letter>'",
        ),
        lambda t, v: str(_count_letter(t.text, v["letter"])),
        _one_letter("aeiostnrldhcup"),
        4,
    ),
    _noun(
        "count_words_with_letter",
        "the number of words that hold a letter, in digits",
        (
            "number of words [with|that contain|that have] the letter <letter>",
            "count of words [with|containing] '<letter>'",
            "[total|number] of words in which <letter> [occurs|appears]",
        ),
        lambda t, v: str(sum(v["letter"] in word.lower() for word in t.words)),
        _one_letter("aeiostnrld"),
    ),
    _noun(
        "edge_letter",
        "the first or last letter",
        ("<end> letter", "<end> letter of all", "letter that comes <end>"),
        lambda t, v: "".join(t.words)[_END[v["end"]]],
        lambda rng, source: {"end": rng.choice(list(_END))},
    ),
    _noun(
        "initials",
        "the first letters of all words, joined",
        (
            "initials",
            "first letters of all words, joined",
            "[acronym|abbreviation] made of first letters",
        ),
        lambda t, v: "".join(w[0] for w in t.words).upper() if len(t.words) <= 8 else None,
    ),
    _noun(
        "words_with_first_letter",
        "the words that start with a letter, in their order",
        (
            "words that [start|begin] with <letter>",
            "words whose first letter is '<letter>'",
            "words starting with the letter <letter>",
        ),
        lambda t, v: _few(w for w in t.words if w.lower().startswith(v["letter"])),
        _one_letter("abcdfhilmopstw"),
        4,
    ),
    _noun(
        "word_after",
        "the word that follows a given word",
        (
            "word after '<word>'",
            "word that [follows|comes after] <word>",
            "word right behind '<word>'",
        ),
        lambda t, v: _neighbour(t.words, v["word"], 1),
        lambda rng, source: {"word": rng.choice(COMMON_WORDS)},
        4,
    ),
    _noun(
        "word_before",
        "the word in front of a given word",
        (
            "word before '<word>'",
            "word that [precedes|comes before] <word>",
            "word in front of '<word>'",
        ),
        lambda t, v: _neighbour(t.words, v["word"], -1),
        lambda rng, source: {"word": rng.choice(COMMON_WORDS)},
        4,
    ),
)

_VERB_FAMILIES = (
    _verb(
        "copy",
        "the text as it is",
        (
            "[copy|repeat|echo] %input [exactly|unchanged|word for word]",
            "[give|write] back %input as it is",
            "[say|write] the same text again",
        ),
        lambda t, v: t.text,
    ),
    _verb(
        "capitals",
        "the text in capital letters",
        (
            "[copy|repeat|write|give back] %input in [capital letters|capitals|upper case|all caps]",
            "[turn|change|convert] %input to [upper case|capitals|capital letters]",
            "make every letter [of the text |]a capital",
            "[uppercase|capitalise] all letters of %input",
        ),
        lambda t, v: t.text.upper(),
        weight=4,
    ),
    _verb(
        "small_letters",
        "the text in small letters",
        (
            "[copy|repeat|write|give back] %input in [small letters|lower case|lower-case letters]",
            "[turn|change|convert] %input to [lower case|small letters]",
            "make every letter [of the text |]small",
            "lowercase all letters of %input",
        ),
        lambda t, v: t.text.lower(),
        weight=3,
    ),
    _verb(
        "title_case",
        "every word with a capital first letter",
        (
            "[start|begin] every word of %input with a capital",
            "write %input in title case",
            "capitalise the first letter of each word",
        ),
        lambda t, v: " ".join(w[:1].upper() + w[1:].lower() for w in t.words),
    ),
    _verb(
        "every_second_word",
        "every second word, from the first",
        (
            "[keep|write] [only |]every second word, [starting with|from] the first",
            "leave out every other word, keeping the first",
            "[write|copy] the first, third, fifth word and so on",
        ),
        lambda t, v: " ".join(t.words[::2]),
    ),
    _verb(
        "reversed_words",
        "the words in reversed order",
        (
            "[reverse|turn around] the order of the words",
            "[write|give] the words [backwards|from last to first|in reverse order]",
            "[start at the last word and end with the first|read the words from the end to the start]",
        ),
        lambda t, v: " ".join(reversed(t.words)),
    ),
    _verb(
        "sorted_words",
        "the words in alphabetical order",
        (
            "[sort|order|arrange] the words alphabetically",
            "[write|put|give] the words in [alphabetical order|order from A to Z]",
            "bring the words into the order of a dictionary",
        ),
        lambda t, v: " ".join(sorted(t.words, key=str.lower)) if len(t.words) <= 8 else None,
    ),
    _verb(
        "swap_ends",
        "the text with its first and last word exchanged",
        (
            "[swap|exchange|switch] the first and the last word",
            "let the first and last word trade places",
            "put the last word first and the first word last",
        ),
        lambda t, v: " ".join((t.words[-1], *t.words[1:-1], t.words[0])),
    ),
    _verb(
        "drop_word",
        "the words without the first or the last",
        (
            "[remove|drop|delete|leave out|cut] the <end> word",
            "[write|repeat] everything except the <end> word",
            "[copy|give] %input without its <end> word",
        ),
        lambda t, v: " ".join(t.words[1:] if v["end"] == "first" else t.words[:-1]),
        lambda rng, source: {"end": rng.choice(list(_END))},
        3,
    ),
    _verb(
        "add_word",
        "the words with a given word before or after them",
        (
            "[put|add|write] the word '<word>' <side> %input",
            "[copy|repeat] %input with <word> <side> it",
            "[say|write] <word> <side> the words of the text and keep the rest",
        ),
        lambda t, v: " ".join(
            (v["word"], *t.words) if v["side"] == "before" else (*t.words, v["word"])
        ),
        lambda rng, source: {"word": source.word(rng), "side": rng.choice(("before", "after"))},
        5,
    ),
    _verb(
        "replace_word",
        "the words with one common word replaced by another",
        (
            "replace [the word |every |]'<old>' [by|with] '<word>'",
            "write <word> [instead of|in place of] <old> and [keep|copy] the rest",
            "[change|turn] '<old>' into '<word>' [wherever it occurs|everywhere]",
        ),
        lambda t, v: (
            " ".join(v["word"] if w.lower() == v["old"] else w for w in t.words)
            if v["old"] in map(str.lower, t.words)
            else None
        ),
        lambda rng, source: {"word": source.word(rng), "old": rng.choice(COMMON_WORDS)},
        4,
    ),
    _verb(
        "spell_word",
        "the letters of the first or last word, apart",
        (
            "spell the <end> word[, a <name> between the letters| with <name>s]",
            "write the letters of the <end> word with a <name> between them",
            "[split|break] the <end> word into letters, [joined|separated] by <name>s",
        ),
        lambda t, v: _SIGNS[v["name"]].join(w) if len(w := t.words[_END[v["end"]]]) <= 7 else None,
        lambda rng, source: {"end": rng.choice(list(_END)), "name": rng.choice(list(_SIGNS))},
        3,
    ),
    _verb(
        "repeat_word",
        "the first or last word, two to four times",
        (
            "[say|write|give] the <end> word <number> times",
            "repeat the <end> word until it [stands|is] there <number> times",
            "[write|output] <number> copies of the <end> word",
        ),
        lambda t, v: " ".join([t.words[_END[v["end"]]]] * int(v["n"])),
        lambda rng, source: {
            "end": rng.choice(list(_END)),
            **_position(2, 4)(rng, source),
        },
        4,
    ),
)

_CONDITION_FAMILIES = (
    _condition_family(
        "contains_letter",
        "whether a letter occurs, in two given words",
        (
            "the letter <letter> [occurs|appears] in %input",
            "%input [contains|has] the letter '<letter>'",
            "there is [a letter|an upper or lower case] <letter> in %input",
        ),
        lambda t, v: v["letter"] in t.text.lower(),
        lambda rng, source: {"letter": rng.choice("bcdfghklmpuvwyxjz")},
        6,
    ),
    _condition_family(
        "contains_word",
        "whether a common word occurs, in two given words",
        (
            "the word <word> [occurs|appears] in %input",
            "%input [contains|has|uses] the word '<word>'",
            "'<word>' is [among|one of] the words",
        ),
        lambda t, v: v["word"] in map(str.lower, t.words),
        lambda rng, source: {"word": rng.choice(COMMON_WORDS)},
        6,
    ),
    _condition_family(
        "longer_than",
        "whether there are more words than a number, in two given words",
        (
            "%input has more than <n> words",
            "%input is longer than <n> words",
            "there are over <n> words in %input",
        ),
        lambda t, v: len(t.words) > int(v["n"]),
        lambda rng, source: {"n": str(rng.randint(5, 16))},
        5,
    ),
    _condition_family(
        "starts_with_letter",
        "whether the first letter is in a part of the alphabet, in two given words",
        (
            "the first letter of %input [comes before|is earlier in the alphabet than] <letter>",
            "%input starts with a letter [before|that precedes] <letter>",
        ),
        lambda t, v: t.words[0][0].lower() < v["letter"],
        _one_letter("fghijklmnopqrst"),
        3,
    ),
    _condition_family(
        "ends_with_letter",
        "whether the last word ends with a letter, in two given words",
        (
            "the last letter of %input is <letter>",
            "%input ends with the letter '<letter>'",
            "the final word [ends in|has as its last letter] <letter>",
        ),
        lambda t, v: t.words[-1][-1].lower() == v["letter"],
        _one_letter("desnrty"),
        4,
    ),
    _condition_family(
        "first_word_longer",
        "whether the first word is longer than the last, in two given words",
        (
            "the first word is longer than the last[ word|]",
            "the opening word has more letters than the closing one",
            "the last word is shorter than the first",
        ),
        lambda t, v: len(t.words[0]) > len(t.words[-1]),
    ),
    _condition_family(
        "ends_with_mark",
        "whether the text ends with a full stop or a question mark, in two given words",
        (
            "%input ends with a <name>",
            "the last character is a <name>",
            "there is a <name> at the end of %input",
        ),
        lambda t, v: t.text[-1] == {"full stop": ".", "question mark": "?"}[v["name"]],
        lambda rng, source: {"name": rng.choice(("full stop", "question mark"))},
    ),
)

# Labels and answers of real tasks


def _map_labels(task: Task, rng: Random, mapping: Mapping[str, Sequence[str]]) -> list[Row]:
    """Draw rows, the labels in turn; an output becomes the outputs that `mapping` gives."""
    by_label: dict[str, list[Row]] = {}
    for example in rng.sample(task.examples, len(task.examples)):
        if len(example.input.split()) <= MAX_INPUT_WORDS and all(
            output in mapping for output in example.outputs
        ):
            outputs = distinct_texts(new for old in example.outputs for new in mapping[old])
            by_label.setdefault(example.outputs[0], []).append(
                (example.input, outputs, example.idx % 10)
            )
    return _in_turns(by_label.values())


LABEL_FRAMES = (
    "<task> Say <instead>%only.",
    "<task> [But use|Use|Answer with] other words: <pairs>.",
    "<task> [The labels are renamed|The labels have new names]: <pairs>.",
    "<task> [Write|Put] <instead>.",
    "[Code|Key|Labels]: <pairs>. <task>",
    "[Use|Say|Write] <instead> in this task: <task>",
    "<task> [Answer in code|Answer as follows] (<pairs>).",
    "[Replace the usual answers|Translate the labels|Change the answers] like this: <pairs>. <task>",
    "<task> [Never use the usual labels;|The usual labels are not allowed:] [give|say] <instead>.",
    "[Task|Question]: <task> [Answers|Options to reply with]: <pairs>.",
)

WRONG_FRAMES = (
    "<task> But give [a wrong answer|an answer that is not right], one of <labels>.",
    "<task> [Name|Give] a label of <labels> that is NOT right.",
    "[Answer falsely|Always answer wrongly|Make a mistake on purpose]. <task> [Options|Labels]: <labels>.",
    "[From|Out of] <labels>, [choose|pick] one that does not fit. <task>",
    "<task> [The right label is forbidden|Avoid the right label]; say another one of <labels>.",
    "[The opposite task|Reversed]: <task> Any [wrong|incorrect] one of <labels> counts as right here.",
    "<task> [Only incorrect labels|Only wrong answers] are accepted (<labels>).",
    "Which of <labels> would be wrong? <task>",
)

ONE_LABEL_FRAMES = (
    "<task> Do not name the answer: say <yes> if it is <label>, else <no>.",
    "[Is the answer '<label>'?|Would '<label>' be right?] [Say|Write] <yes> or, if not, <no>. <task>",
    "<task> [We only care about|Look only for] <label>: <yes> if so, <no> otherwise.",
    "[Say|Answer] <yes> where <label> is [right|the answer] and <no> where not. <task>",
    "<task> [Reply|Respond] <yes> for <label>, <no> for [anything else|all others].",
    "<yes> means <label>, <no> means any other label. <task>",
    "<task> [Output|Give] <no> unless the label is <label>; then [output|give] <yes>.",
    "[Detect|Find] <label> (<yes>) against the rest (<no>). <task>",
)

INVERSE_FRAMES = (
    "[Do this backwards|The roles are exchanged]: you get an answer, give its input. <task>",
    "You see the answer of a task; [name|write|give] a possible question. The task: <task>",
    "[Invert|Reverse] this task: <task>",
    "<task> Now do the opposite: [from the result, give the original|the result is given, name its origin].",
    "Given is the output of the [following|next] task. [Find|Give] the input. <task>",
    "[What input|Which text] gives this answer? <task>",
    "<task> [But|Only] here the input is the answer, and %task name what was asked.",
    "[Go from answer to input|Work back from the answer]. <task>",
)

STYLE_FRAMES = (
    "<task> <Style>.",
    "<Style>. <task>",
    "<task> [Form of the answer|Format]: <style>.",
    "[Here is a task:|The task:] <task> [Note|Important|Rule]: <style>.",
    "<task> [One more thing|Remember|Also]: <style>.",
    "[Follow this rule|Keep to this form]: <style>. <task>",
    "[Do this|Solve this]: <task> [As for the form|As to the form]: <style>.",
    "<task> <Style>%only.",
)


def _renamed_labels(rng: Random, source: Source) -> Draft | None:
    task = _one_of(rng, source.labelled)
    if task is None:
        return None
    new = source.labels(rng, len(task.metric.labels))
    if {*map(str.lower, new)} & {*map(str.lower, task.metric.labels)}:
        return None
    return _relabelled(rng, source, task, dict(zip(task.metric.labels, new, strict=True)))


def _permuted_labels(rng: Random, source: Source) -> Draft | None:
    task = _one_of(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    shift = rng.randint(1, len(labels) - 1)
    return _relabelled(
        rng, source, task, dict(zip(labels, labels[shift:] + labels[:shift], strict=True))
    )


def _relabelled(rng: Random, source: Source, task: Task, new: dict[str, str]) -> Draft:
    pairs, instead = [], []
    for _ in range(DESCRIPTIONS_PER_TASK):
        order = rng.sample(list(new.items()), len(new))
        pair = rng.choice(
            ("{0} -> {1}", "{0} = {1}", "'{0}' is '{1}'", "{0} becomes {1}", "{1} for {0}")
        )
        pairs.append(rng.choice((", ", "; ")).join(pair.format(*item) for item in order))
        word = rng.choice(("{1} instead of {0}", "{1} for {0}", "'{1}' if it is '{0}'"))
        parts = [word.format(*item) for item in order]
        instead.append(", ".join(parts[:-1]) + " and " + parts[-1])
    return Draft(
        wordings(
            LABEL_FRAMES,
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": _task_phrases(task, rng), "pairs": pairs, "instead": instead},
        ),
        source.limit(_map_labels(task, rng, {old: (label,) for old, label in new.items()})),
        Metric("classification", tuple(new.values())),
        task,
    )


def _wrong_label(rng: Random, source: Source) -> Draft | None:
    task = _one_of(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    mapping = {label: [other for other in labels if other != label] for label in labels}
    rows = [
        row
        for row in _map_labels(task, rng, mapping)
        if len(row[1]) == len(labels) - 1  # one right label, so that every other one is wrong
    ]
    return Draft(
        wordings(
            WRONG_FRAMES,
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": _task_phrases(task, rng), "labels": ", ".join(labels)},
        ),
        source.limit(rows),
        Metric("classification", labels),
        task,
    )


def _one_label_or_not(rng: Random, source: Source) -> Draft | None:
    task = _one_of(rng, [task for task in source.labelled if len(task.metric.labels) > 2])
    if task is None:
        return None
    label = rng.choice(task.metric.labels)
    yes, no = source.yes_no(rng)
    mapping = {other: (yes if other == label else no,) for other in task.metric.labels}
    rows = [row for row in _map_labels(task, rng, mapping) if len(row[1]) == 1]
    return Draft(
        wordings(
            ONE_LABEL_FRAMES,
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": _task_phrases(task, rng), "label": label, "yes": yes, "no": no},
        ),
        source.limit(rows),
        Metric("classification", (yes, no)),
        task,
    )


def _inverse(rng: Random, source: Source) -> Draft | None:
    task = _one_of(rng, source.paired)
    if task is None:
        return None
    inputs: dict[tuple[str, bool], list[Example]] = {}
    for example in rng.sample(task.examples, len(task.examples)):
        inputs.setdefault((example.outputs[0], example.idx % 10 == 9), []).append(example)
    return Draft(
        wordings(
            INVERSE_FRAMES,
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": _task_phrases(task, rng)},
        ),
        source.limit(
            [
                (answer, distinct_texts(e.input for e in examples), examples[0].idx % 10)
                for (answer, _), examples in inputs.items()
            ]
        ),
        origin=task,
    )


def _style_family(
    name: str,
    explanation: str,
    phrases: Sequence[str],
    apply: Callable[[str, Values], str],
    parameters: Parameters = lambda rng, source: {},
    weight: int = 5,
) -> Family:
    """Make a family that wants the right answer in another form, of a real task or a chosen word."""

    def make(rng: Random, source: Source) -> Draft | None:
        values = parameters(rng, source)
        task = _one_of(rng, source.answered) if rng.random() < 0.6 else None
        if task is None:
            nouns, choose = rng.choice(_SELECTIONS)
            sentences = wordings(NOUN_FRAMES, rng, count=32, phrases={"np": nouns})
            told = [text if text[-1] in ".!?" else f"{text}." for text in sentences]
            rows = _pick(rng, source, lambda text: choose(text.words))
        else:
            told = _task_phrases(task, rng)
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
        changed = sum(old[1] != new[1] for old, new in zip(rows, styled, strict=True))
        if changed < len(rows) / 2:
            return None
        return Draft(
            wordings(
                STYLE_FRAMES,
                rng,
                count=DESCRIPTIONS_PER_TASK,
                phrases={"style": phrases},
                values={**values, "task": told},
            ),
            styled,
            origin=task,
        )

    return Family(name, explanation, weight, make)


_STYLE_FAMILIES = (
    _style_family(
        "answer_in_capitals",
        "the answer in capital letters",
        (
            "write the answer in [capital letters|upper case|all caps]",
            "use only [capital|upper-case] letters",
            "every letter of the answer is a capital",
            "the answer must be in [upper case|CAPITALS]",
            "shout the answer in big letters",
        ),
        lambda answer, v: answer.upper(),
        weight=8,
    ),
    _style_family(
        "answer_in_small_letters",
        "the answer in small letters",
        (
            "write the answer in [small letters|lower case]",
            "use no capital letters",
            "every letter of the answer is small",
            "the answer must be in [lower case|small letters]",
        ),
        lambda answer, v: answer.lower(),
    ),
    _style_family(
        "answer_as_json",
        "the answer as a JSON object with a given key",
        (
            'give the answer as JSON with the key "<key>"',
            'put the answer into a JSON object under "<key>"',
            'the output is {"<key>": ...} with the answer in it',
            "answer in JSON, [the field is|field name] <key>",
        ),
        lambda answer, v: json.dumps({v["key"]: answer}, ensure_ascii=False),
        lambda rng, source: {
            "key": rng.choice(("answer", "result", "output", "label", source.word(rng)))
        },
    ),
    _style_family(
        "answer_quoted",
        "the answer between two equal signs",
        (
            "put a <name> before and after the answer",
            "[enclose|wrap] the answer in <name>s",
            "the answer stands between two <name>s",
        ),
        lambda answer, v: f"{_SIGNS[v['name']]}{answer}{_SIGNS[v['name']]}",
        lambda rng, source: {"name": rng.choice(list(_SIGNS))},
    ),
    _style_family(
        "answer_in_brackets",
        "the answer in brackets",
        (
            "[put|write] the answer in square brackets",
            "[enclose|wrap] the answer in square brackets",
            "square brackets stand around the answer",
        ),
        lambda answer, v: f"[{answer}]",
    ),
    _style_family(
        "answer_with_prefix",
        "a given word and a colon before the answer",
        (
            "[start|begin] [the answer |]with '<word>:'",
            "write <word>, a colon and then the answer",
            "before the answer comes '<word>:'",
            "the reply has the form <word>: answer",
        ),
        lambda answer, v: f"{v['word']}: {answer}",
        _one_word,
    ),
    _style_family(
        "answer_with_suffix",
        "a given word after the answer",
        (
            "[end|finish] with the word '<word>'",
            "after the answer, [add|write] <word>",
            "the last word of the reply is always <word>, after the answer",
        ),
        lambda answer, v: f"{answer} {v['word']}",
        _one_word,
    ),
    _style_family(
        "answer_numbered",
        "the answer as an item of a numbered list",
        (
            "write the answer as item <n> of a numbered list",
            "put '<n>.' in front of the answer",
            "number the answer with <n> and a full stop",
        ),
        lambda answer, v: f"{v['n']}. {answer}",
        lambda rng, source: {"n": str(rng.randint(1, 9))},
    ),
    _style_family(
        "answer_twice",
        "the answer two times",
        (
            "[give|say|write] the answer twice, with a <name> between",
            "repeat the answer once, a <name> in the middle",
            "write the answer, a <name> and the answer again",
        ),
        lambda answer, v: f"{answer}{_SIGNS[v['name']]}{answer}",
        lambda rng, source: {"name": rng.choice(list(_SIGNS))},
    ),
    _style_family(
        "answer_first_letter",
        "only the first letter of the answer",
        (
            "[give|write] only the first letter of the answer",
            "shorten the answer to its first letter",
            "one letter is enough: the one that the answer starts with",
        ),
        lambda answer, v: answer[0],
    ),
    _style_family(
        "answer_spelled",
        "the letters of the answer, apart",
        (
            "spell the answer, a <name> between all characters",
            "write the answer character by character, joined by <name>s",
            "put a <name> between the letters of the answer",
        ),
        lambda answer, v: _SIGNS[v["name"]].join(answer),
        lambda rng, source: {"name": rng.choice(list(_SIGNS))},
        2,
    ),
)

# Choice of field and position, constant answers

FIELD_PHRASES = (
    "text of the field '<field>'",
    "[content|value] of <field>",
    "part [after|behind] '<field>:'",
    "<field> [part|field|entry]",
)

ITEM_PHRASES = (
    "<nth> [item|entry|element]",
    "[item|entry|element] number <n>",
    "[item|entry|element] in place <n>",
    "<nth> thing [listed|in the list]",
)


def _field(rng: Random, source: Source) -> Draft | None:
    if not source.records:
        return None
    task, names, rows = rng.choice(source.records)
    place = rng.randrange(len(names))
    phrases = list(FIELD_PHRASES)
    if place < len(ORDINALS):
        phrases += ["<nth> [line|field]'s text, without its name"]
    return _nouns(
        rng,
        phrases,
        {"field": names[place], "nth": ORDINALS[min(place, len(ORDINALS) - 1)]},
        source.limit(
            [
                (example.input, (values[place],), example.idx % 10)
                for example, values in rng.sample(rows, len(rows))
                if len(values[place].split()) <= 15
            ]
        ),
        origin=task,
    )


def _made_field(rng: Random, source: Source) -> Draft:
    names = rng.sample(FIELD_NAMES, rng.randint(2, 4))
    rows = []
    for texts, digit in _groups(rng, source, len(names)):
        lines = [
            f"{name}: {text.text}"
            for name, text in rng.sample(list(zip(names, texts, strict=True)), len(names))
        ]
        rows.append(("\n".join(lines), (texts[0].text,), digit))
    return _nouns(rng, FIELD_PHRASES, {"field": names[0]}, rows)


def _line(rng: Random, source: Source) -> Draft:
    count = rng.randint(2, 4)
    place = rng.randrange(count)
    rows = [
        ("\n".join(text.text for text in texts), (texts[place].text,), digit)
        for texts, digit in _groups(rng, source, count)
    ]
    phrases = ("<nth> line", "line number <n>", "text [on|in] line <n>", "<nth> of the lines")
    return _nouns(rng, phrases, {"n": str(place + 1), "nth": ORDINALS[place]}, rows)


def _item(rng: Random, source: Source) -> Draft:
    place = rng.randrange(5)
    rows = _lists(rng, source, place + 1, lambda items: items[place])
    return _nouns(rng, ITEM_PHRASES, {"n": str(place + 1), "nth": ORDINALS[place]}, rows)


def _last_item(rng: Random, source: Source) -> Draft:
    phrases = ("[last|final|closing] [item|entry|element]", "[item|entry] at the end of the list")
    return _nouns(rng, phrases, {}, _lists(rng, source, 2, lambda items: items[-1]))


def _longest_item(rng: Random, source: Source) -> Draft:
    phrases = ("[longest|lengthiest] [item|entry|element]", "[item|entry] with the most letters")
    return _nouns(rng, phrases, {}, _lists(rng, source, 3, _longest))


def _first_item_by_alphabet(rng: Random, source: Source) -> Draft:
    phrases = (
        "[item|entry|element] that comes first in the alphabet",
        "alphabetically [first|earliest] [item|entry|element]",
    )
    return _nouns(rng, phrases, {}, _lists(rng, source, 2, min))


def _count_items(rng: Random, source: Source) -> Draft:
    phrases = ("number of [items|entries|elements]", "count of [listed things|items|entries]")
    return _nouns(rng, phrases, {}, _lists(rng, source, 1, lambda items: str(len(items))))


CONSTANT_FRAMES = (
    "[Always|In every case|Each time] [reply|respond with|write|say] '<word>'[.|, whatever you read.]",
    "%skip; [write|say|reply] <word>[| instead].",
    "[The answer|The output|The reply] is always <word>.",
    "[Whatever|No matter what] %input [says|is], [say|write|output] <word>%only.",
    "%task [say|write|give] <word> [for every input|each time|in all cases].",
    "<word>[. That is the only answer.|, always.| is what you reply to everything.]",
    "[Output|Print|Return] [the constant|the fixed text|just] '<word>'.",
    "[Every|Each] [input|message|text] gets the same [answer|reply]: <word>.",
    "[Say|Write] nothing but <word>[| to anything you are shown].",
    "[There is one permitted reply|Only one reply is right]: <word>.",
    'You get a text. [Do not read it.|It does not matter.] [Reply|Answer] "<word>".',
    "[Your only word is|All you ever say is] <word>.",
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
        wordings(CONSTANT_FRAMES, rng, count=DESCRIPTIONS_PER_TASK, values={"word": word}),
        _pick(rng, source, lambda text: word),
    )


def _nouns(
    rng: Random,
    phrases: Sequence[str],
    values: Mapping[str, str],
    rows: Sequence[Row],
    origin: Task | None = None,
) -> Draft:
    return Draft(
        wordings(
            NOUN_FRAMES,
            rng,
            count=DESCRIPTIONS_PER_TASK,
            phrases={"np": phrases},
            values=dict(values),
        ),
        rows,
        origin=origin,
    )


def _groups(rng: Random, source: Source, count: int) -> list[tuple[list[Text], int]]:
    """Draw groups of short texts, each wholly of training or wholly of validation inputs."""
    groups = []
    short = [text for text in source.texts if len(text.words) <= 10]
    for held_out in (False, True):
        texts = [text for text in short if (text.digit == 9) == held_out]
        wanted = EXAMPLES_PER_TASK // (8 if held_out and source.split == "train" else 1)
        if len(texts) >= 2 * count:
            groups += [
                (rng.sample(texts, count), 9 if held_out else place % 9) for place in range(wanted)
            ]
    return source.limit(groups)


def _lists(
    rng: Random, source: Source, least: int, choose: Callable[[Sequence[str]], str | None]
) -> list[Row]:
    """Draw rows of listed words, `least` to `least` + 3 of them, with one separator."""
    separator = rng.choice((", ", "; ", " | ", " / ", "\n", " - "))
    rows: dict[str, Row] = {}
    for place in range(EXAMPLES_PER_TASK):
        items = rng.sample(source.vocabulary, rng.randint(max(least, 2), least + 3))
        answer = choose(items)
        if answer:
            text = separator.join(items)
            rows[text] = (text, (answer,), place % 10 if source.split == "train" else 9)
    return list(rows.values())


_SELECTIONS: tuple[tuple[Sequence[str], Callable[[Sequence[str]], str | None]], ...] = (
    (FIRST_WORD, lambda words: words[0]),
    (LAST_WORD, lambda words: words[-1]),
    (LONGEST_WORD, _longest),
    (("second word", "word number two", "word in place 2"), lambda words: words[1]),
)


def _one_of(rng: Random, tasks: Sequence[Task]) -> Task | None:
    return rng.choice(tasks) if tasks else None


def _few(words: Iterable[str]) -> str | None:
    found = list(words)
    return " ".join(found) if 1 <= len(found) <= 6 else None


def _neighbour(words: Sequence[str], word: str, step: int) -> str | None:
    """Give the word beside the only occurrence of `word`, None if there is no such word."""
    places = [place for place, other in enumerate(words) if other.lower() == word]
    if len(places) != 1 or not 0 <= places[0] + step < len(words):
        return None
    return words[places[0] + step]


FAMILIES: tuple[Family, ...] = (
    *_NOUN_FAMILIES,
    *_VERB_FAMILIES,
    *_CONDITION_FAMILIES,
    *_STYLE_FAMILIES,
    Family("renamed_labels", "a real task with new words for its labels", 20, _renamed_labels),
    Family("permuted_labels", "a real task with its labels exchanged", 8, _permuted_labels),
    Family("wrong_label", "a real task, but a label that is not right", 6, _wrong_label),
    Family(
        "one_label_or_not", "whether one label is the answer of a real task", 6, _one_label_or_not
    ),
    Family("inverse", "an input that has the given answer in a real task", 8, _inverse),
    Family("field", "the text of one field of a real record", 8, _field),
    Family("made_field", "the text of one of several named lines, in any order", 6, _made_field),
    Family("line", "one of two to four lines, by number", 4, _line),
    Family("item", "one item of a list, by number", 5, _item),
    Family("last_item", "the last item of a list", 2, _last_item),
    Family("longest_item", "the longest item of a list", 2, _longest_item),
    Family(
        "first_item_by_alphabet",
        "the item of a list that is first in the alphabet",
        2,
        _first_item_by_alphabet,
    ),
    Family("count_items", "the number of items of a list, in digits", 2, _count_items),
    Family("constant", "the same word or two, whatever the input", 20, _constant),
)
