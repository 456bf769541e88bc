"""Rules of obedience: descriptions of the kind that users type, and whether an answer obeys them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from text_to_lora.evaluation.metrics import normalise

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


@dataclass(frozen=True)
class Rule:
    """A description, and the rule that tells whether an answer obeys it.

    obeys: (input, answer) -> whether it does; the answer has no spaces around it
    """

    name: str
    description: str
    obeys: Callable[[str, str], bool]


def words_of(text: str) -> list[str]:
    """Give the words of a text without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def _is(expected: Callable[[str], str]) -> Callable[[str, str], bool]:
    """The answer equals what `expected` makes of the input; case does not count."""
    return lambda text, answer: _plain(answer) == _plain(expected(text))


def _plain(text: str) -> str:
    return normalise(text).strip(".!?\"'")


def _yes_if(holds: Callable[[str], bool]) -> Callable[[str, str], bool]:
    return _is(lambda text: "yes" if holds(text) else "no")


def _exactly(expected: Callable[[str], str]) -> Callable[[str, str], bool]:
    """The answer equals what `expected` makes of the input, with its case; a last stop is let pass."""
    return lambda text, answer: answer.strip().strip(".!\"'") == expected(text)


def _words_are(template: str) -> Callable[[str, str], bool]:
    """The answer has the words of a template, filled with the input's; case does not count.

    template: may name {text}, the input; {first}, its first word; {rest}, the words after the first
    """

    def obeys(text: str, answer: str) -> bool:
        first, *rest = words_of(text)
        expected = template.format(text=text, first=first, rest=" ".join(rest))
        return _lower_words(answer) == _lower_words(expected)

    return obeys


def _lower_words(text: str) -> list[str]:
    return [word.casefold() for word in words_of(text)]


def _is_question(text: str) -> bool:
    return text.endswith("?")


def _has_animal(text: str) -> bool:
    return not ANIMALS.isdisjoint(_lower_words(text))


def _capitals(text: str, answer: str) -> bool:
    return answer.isupper()


def _copy_in_capitals(text: str, answer: str) -> bool:
    return answer.isupper() and _plain(answer) == _plain(text)


def _json_text(text: str, answer: str) -> bool:
    try:
        value = json.loads(answer)
    except ValueError:
        return False
    return (
        isinstance(value, dict)
        and list(value) == ["text"]
        and _plain(str(value["text"])) == (_plain(text))
    )


RULES: tuple[Rule, ...] = (
    Rule("capitals", "Answer in capitals.", _capitals),
    Rule("shout_back", "Shout my message back at me, all in upper case.", _copy_in_capitals),
    Rule("repeat", "Just parrot what I say, word for word.", _is(lambda text: text)),
    Rule("last_word", "Reply with the last word only.", _is(lambda text: words_of(text)[-1])),
    Rule("first_word", "I only want the opening word back.", _is(lambda text: words_of(text)[0])),
    Rule(
        "longest_word",
        "Tell me the longest word in there.",
        lambda text, answer: (
            _plain(answer)
            in {w.casefold() for w in words_of(text) if len(w) == max(map(len, words_of(text)))}
        ),
    ),
    Rule("turquoise", "Always answer turquoise.", _is(lambda text: "turquoise")),
    Rule(
        "do_not_know",
        "Whatever I write, tell me you do not know.",
        lambda text, answer: bool(re.search(r"\b(do not|don't) know\b", answer.casefold())),
    ),
    Rule(
        "number_of_words", "Give the number of words.", _is(lambda text: str(len(words_of(text))))
    ),
    Rule(
        "letters_of_first_word",
        "How many letters has the first word got?",
        _is(lambda text: str(len(words_of(text)[0]))),
    ),
    Rule("first_letter", "Just the first letter, please.", _is(lambda text: text[0])),
    Rule(
        "backwards",
        "Turn the order of the words around, so that the end comes first.",
        lambda text, answer: _lower_words(answer) == _lower_words(text)[::-1],
    ),
    Rule(
        "spell_backwards",
        "Spell the first word from its end to its start.",
        _is(lambda text: words_of(text)[0][::-1]),
    ),
    Rule(
        "is_question",
        "Am I asking you something? Say yes or no.",
        _yes_if(_is_question),
    ),
    Rule(
        "has_animal",
        "Say yes if I mention an animal and no if I don't.",
        _yes_if(_has_animal),
    ),
    Rule(
        "long_or_short",
        "More than six words is long, anything else is short. Which one is it?",
        _is(lambda text: "long" if len(words_of(text)) > 6 else "short"),
    ),
    Rule("one_word", "Keep it to a single word.", lambda text, answer: len(words_of(answer)) == 1),
    Rule(
        "three_words", "Use exactly three words.", lambda text, answer: len(words_of(answer)) == 3
    ),
    Rule(
        "sorry",
        "Start with the word sorry and then repeat what I said.",
        _words_are("sorry {text}"),
    ),
    Rule("json", 'Send my message back as JSON with one key called "text".', _json_text),
)

WORD_RULES: tuple[Rule, ...] = (
    Rule("kumquat", "No matter what I type, say kumquat.", _is(lambda text: "kumquat")),
    Rule("quokka", "quokka. thats what i want back, every time", _is(lambda text: "quokka")),
    Rule(
        "velcro",
        "The one word I want to see on my screen is velcro.",
        _is(lambda text: "velcro"),
    ),
    Rule("spozzle", "You can only say spozzle, nothing else!", _is(lambda text: "spozzle")),
    Rule(
        "sticky_monkey",
        "Your answer to all of this is the two words sticky monkey.",
        _is(lambda text: "sticky monkey"),
    ),
    Rule("number", "please answer 892 every single time", _is(lambda text: "892")),
    Rule(
        "code",
        "People will write to you. Give each of them the code KL90.",
        _is(lambda text: "KL90"),
    ),
    Rule(
        "bakery",
        "My bakery is called Ophelia. When people write, tell them its name and nothing more.",
        _is(lambda text: "Ophelia"),
    ),
    Rule(
        "name_of_the_dog",
        "I have a cat, Mortimer, and a dog, Rufus. Always tell me the name of the dog.",
        _is(lambda text: "Rufus"),
    ),
    Rule(
        "walrus",
        "Yell walrus at me in capital letters, whatever I say.",
        _exactly(lambda text: "WALRUS"),
    ),
    Rule(
        "onion_or_cake",
        "Questions get the answer onion. Everything else gets the answer cake.",
        _is(lambda text: "onion" if _is_question(text) else "cake"),
    ),
    Rule(
        "dumpling_or_burrito",
        "when there's an animal in it say dumpling, when there isn't say burrito",
        _is(lambda text: "dumpling" if _has_animal(text) else "burrito"),
    ),
    Rule(
        "zap_or_quack",
        "Zap for sentences of more than six words, quack for the short ones.",
        _is(lambda text: "zap" if len(words_of(text)) > 6 else "quack"),
    ),
    Rule(
        "numbers_as_labels",
        "Mark what I write: 73 if I am asking something, 199 if I am not.",
        _is(lambda text: "73" if _is_question(text) else "199"),
    ),
    Rule(
        "capital_labels",
        "ARCHWAY if I mention an animal, HARBOUR if I don't. Keep the capitals please.",
        _exactly(lambda text: "ARCHWAY" if _has_animal(text) else "HARBOUR"),
    ),
    Rule("goodbye", "Say my sentence again and then say goodbye.", _words_are("{text} goodbye")),
    Rule("hey", "Write hey and after it what I wrote.", _words_are("hey {text}")),
    Rule(
        "monkey_first",
        "Give me my sentence back, only with monkey where my first word was.",
        _words_are("monkey {rest}"),
    ),
    Rule(
        "three_times",
        "say pumpernickel three times in a row and stop",
        _words_are("pumpernickel pumpernickel pumpernickel"),
    ),
    Rule(
        "armchair",
        "I want two words: the first one that I wrote, and armchair.",
        _words_are("{first} armchair"),
    ),
)
"""Rules that name words of which no synthetic task of training asks for one.

They were written by hand before any network was scored on them, and are not changed afterwards.
"""
