"""Rules of obedience: descriptions of the kind that users type, and whether an answer obeys them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import yaml

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.texts import normalize_answer

SENTENCES: tuple[str, ...] = (
    "The old dog sleeps by the door.",
    "Where did you put my keys?",
    "We bought six red apples at the market.",
    "Does your sister play the piano every evening?",
    "It rained all day.",
    "Can a fish swim backwards?",
    "Does the train to the coast leave at 9?",
    "Anna fed the cat before breakfast.",
    "Please close the window.",
    "Who let the horse out of the barn?",
    "A small bird built its nest on our roof.",
    "Is that your goat?",
)
"""Inputs of every description, written for this file.

Half are questions, half name an animal, half have more than six words: one answer for all gives 50%
on the rules with two outcomes.
"""

ANIMALS = frozenset({"dog", "fish", "cat", "horse", "bird", "goat"})

Obeys = Callable[[str, str], bool]
"""Whether an answer obeys: (input, answer) -> bool; the answer has no spaces around it."""


@dataclass(frozen=True)
class Rule:
    """A description, and whether an answer obeys it."""

    name: str
    description: str
    obeys: Obeys


def words_of(text: str) -> list[str]:
    """Give the words of a text without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def find_rule(name: str) -> Rule:
    """The rule of this name.

    Raises ConfigError when there is none.
    """
    rules = {rule.name: rule for members in RULE_SETS.values() for rule in members}
    if name not in rules:
        raise ConfigError(f"unknown rule {name!r}; choose among {', '.join(rules)}")
    return rules[name]


def _plain(text: str) -> str:
    return normalize_answer(text).strip(".!?\"'")


def _lower_words(text: str) -> list[str]:
    return [word.casefold() for word in words_of(text)]


# The form in which answer and expected text are compared.
_FORMS: dict[str, Callable[[str], object]] = {
    "is": _plain,
    "exactly": lambda text: text.strip().strip(".!\"'"),
    "words": _lower_words,
}
_HOLDS: dict[str, Callable[[str], bool]] = {
    "question": lambda text: text.endswith("?"),
    "animal": lambda text: not ANIMALS.isdisjoint(_lower_words(text)),
    "long": lambda text: len(words_of(text)) > 6,
}


def _expected(template: str | list[str], text: str) -> str:
    """The text that an answer should be; see rules.yaml."""
    if isinstance(template, list):
        condition, yes, no = template
        return yes if _HOLDS[condition](text) else no
    words = words_of(text)
    return template.format(
        text=text,
        first=words[0],
        last=words[-1],
        rest=" ".join(words[1:]),
        count=len(words),
        letters=len(words[0]),
        letter=text[0],
        backwards=words[0][::-1],
    )


def _is_longest_word(text: str, answer: str) -> bool:
    longest = max(map(len, words_of(text)))
    return _plain(answer) in {w.casefold() for w in words_of(text) if len(w) == longest}


def _is_json_text(text: str, answer: str) -> bool:
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    is_object = isinstance(value, dict) and list(value) == ["text"]
    return is_object and _plain(str(value["text"])) == _plain(text)


_OBEYS: dict[str, Obeys] = {
    "capitals": lambda text, answer: answer.isupper(),
    "copy_in_capitals": lambda text, answer: answer.isupper() and _plain(answer) == _plain(text),
    "longest_word": _is_longest_word,
    "do_not_know": lambda text, answer: bool(
        re.search(r"\b(do not|don't) know\b", answer.casefold())
    ),
    "words_backwards": lambda text, answer: _lower_words(answer) == _lower_words(text)[::-1],
    "one_word": lambda text, answer: len(words_of(answer)) == 1,
    "three_words": lambda text, answer: len(words_of(answer)) == 3,
    "json_text": _is_json_text,
}


def _make_rule(name: str, description: str, **check: str | list[str]) -> Rule:
    ((kind, template),) = check.items()
    if kind == "obeys":
        return Rule(name, description, _OBEYS[str(template)])
    form = _FORMS[kind]
    return Rule(
        name, description, lambda text, answer: form(answer) == form(_expected(template, text))
    )


RULE_SETS: dict[str, tuple[Rule, ...]] = {
    name: tuple(_make_rule(rule, **entry) for rule, entry in rules.items())
    for name, rules in yaml.safe_load(
        (files("text_to_lora.evaluation") / "rules.yaml").read_text(encoding="utf-8")
    ).items()
}
"""The rules of rules.yaml by set."""

RULES, WORD_RULES = RULE_SETS.values()
