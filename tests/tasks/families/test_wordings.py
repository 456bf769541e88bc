import re
from random import Random

import pytest

from text_to_lora.tasks.families.word_pool import (
    LABEL_SETS,
    UNSEEN_WORDS,
    VALIDATION_LABEL_SETS,
    VALIDATION_WORDS,
    YES_NO_WORDS,
)
from text_to_lora.tasks.families.wordings import FRAMES, SHARED, wordings


def test_choices_shared_choices_and_slots_are_filled() -> None:
    texts = wordings(["[a|b] <x> %give"], Random(0), count=200, values={"x": "v"})
    gives = SHARED["give"].strip("[]").split("|")
    assert set(texts) == {f"{first} v {give}" for first in "ab" for give in gives}


def test_values_are_taken_as_they_are() -> None:
    value = "[1|2] <x> %give"
    assert wordings(["<x>!"], Random(0), count=3, values={"x": value}) == (f"{value}!",)


def test_a_list_of_values_is_drawn_from() -> None:
    texts = wordings(["<x>"], Random(0), count=9, values={"x": ["p", "q"]})
    assert set(texts) == {"p", "q"}


def test_a_phrase_is_a_template_and_can_begin_a_sentence() -> None:
    texts = wordings(
        ["<Np>. It is <np>."],
        Random(0),
        count=9,
        phrases={"np": ["[one|two] <n>"]},
        values={"n": "3"},
    )
    assert set(texts) <= {f"{a} 3. It is {b} 3." for a in ("One", "Two") for b in ("one", "two")}
    assert len(texts) > 1


def test_all_templates_are_used_before_one_comes_again() -> None:
    templates = [f"{i} [a|b|c|d]" for i in range(10)]
    texts = wordings(templates, Random(1), count=10)
    assert {text[0] for text in texts} == {str(i) for i in range(10)}


def test_equal_seeds_give_equal_texts_and_texts_are_distinct() -> None:
    first = wordings(FRAMES["noun"], Random(3), count=16, phrases={"np": ["first word"]})
    assert first == wordings(FRAMES["noun"], Random(3), count=16, phrases={"np": ["first word"]})
    assert len(set(first)) == 16


@pytest.mark.parametrize(
    ("frames", "slots"),
    [("noun", ["np"]), ("verb", ["vp"]), ("condition", ["cond", "yes", "no"])],
)
def test_every_frame_tells_what_it_is_given(frames: str, slots: list[str]) -> None:
    assert len(FRAMES[frames]) >= 8
    values: dict[str, str | list[str]] = {slot: f"{slot.upper()}1" for slot in slots}
    values |= {slot.capitalize(): f"{slot.upper()}1" for slot in slots}
    for frame in FRAMES[frames]:
        for seed in range(30):
            (text,) = wordings([frame], Random(seed), count=1, values=values)
            assert all(f"{slot.upper()}1" in text for slot in slots), text
            assert not re.search(r"[\[\]|%<>]|  |\.\.", text), text


def test_a_set_has_enough_different_words_for_any_task() -> None:
    for name, words in LABEL_SETS.items():
        assert len(words) == len(set(words)) >= 7, name


def test_validation_words_are_in_no_training_set() -> None:
    training = {
        word.lower()
        for name, words in LABEL_SETS.items()
        if name not in VALIDATION_LABEL_SETS
        for word in words
    } | {word.lower() for pair in YES_NO_WORDS for word in pair}
    assert {word.lower() for word in VALIDATION_WORDS}.isdisjoint(training)
    assert set(VALIDATION_LABEL_SETS) <= set(LABEL_SETS)


def test_unseen_words_are_in_no_set() -> None:
    assert UNSEEN_WORDS.isdisjoint(word for words in LABEL_SETS.values() for word in words)
