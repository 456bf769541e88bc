"""Each rule accepts the right answer and no near miss."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from made_up_tasks import make_tasks
from text_to_lora.evaluation.rules import (
    ANIMALS,
    RULES,
    SENTENCES,
    WORD_RULES,
    Rule,
    words_of,
)
from text_to_lora.tasks import families
from text_to_lora.tasks.families.word_pool import (
    LABEL_SETS,
    VALIDATION_LABEL_SETS,
    WordPool,
    is_held_out,
)

TEXT = "Does the train to the coast leave at 9?"

# For each rule an answer to TEXT that obeys it, and ones that almost do.
ANSWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "capitals": ("YES", ("Yes", "yes", "9")),
    "shout_back": ("DOES THE TRAIN TO THE COAST LEAVE AT 9?", (TEXT, "DOES THE TRAIN LEAVE?")),
    "repeat": (TEXT, ("Does the train to the coast leave", "")),
    "last_word": ("9", ("at 9", "leave", TEXT)),
    "first_word": ("Does", ("Does the", "the", TEXT)),
    "longest_word": ("coast", ("does", "train coast")),
    "turquoise": ("turquoise", ("blue", "turquoise train", "")),
    "do_not_know": ("I don't know that.", ("I know", "no")),
    "number_of_words": ("9", ("8", "nine words", "99")),
    "letters_of_first_word": ("4", ("5", "9")),
    "first_letter": ("D", ("Do", "t", "9")),
    "backwards": ("9 at leave coast the to train the does", (TEXT, "9 at leave")),
    "spell_backwards": ("seod", ("does", "9")),
    "is_question": ("yes", ("no", "yes it does", "9")),
    "has_animal": ("no", ("yes", "train")),
    "long_or_short": ("long", ("short", "9")),
    "one_word": ("soon", ("very soon", "")),
    "three_words": ("It leaves soon", ("It leaves", "It leaves very soon")),
    "sorry": ("sorry does the train to the coast leave at 9", ("sorry", TEXT)),
    "json": ('{"text": "Does the train to the coast leave at 9?"}', (TEXT, '{"text": "no"}', "{")),
}

COPY = "does the train to the coast leave at 9"
WORD_ANSWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kumquat": ("Kumquat.", ("kumquats", "kumquat kumquat", "")),
    "quokka": ("quokka", ("a quokka", "okapi")),
    "velcro": ("velcro", ("The word is velcro.", "velvet")),
    "spozzle": ("spozzle", ("nozzle", "spozzle!!! ok")),
    "sticky_monkey": ("sticky monkey", ("monkey", "sticky, monkey", "stickymonkey")),
    "number": ("892", ("891", "892 times", "8 9 2")),
    "code": ("KL90", ("KL 90", "KL-90", "code KL90")),
    "bakery": ("Ophelia", ("My bakery is called Ophelia.", "bakery")),
    "name_of_the_dog": ("Rufus", ("Mortimer", "Rufus and Mortimer", "dog")),
    "walrus": ("WALRUS!", ("walrus", "Walrus", "WALRUS WALRUS")),
    "onion_or_cake": ("onion", ("cake", "onion cake", "yes")),
    "dumpling_or_burrito": ("burrito", ("dumpling", "no", "burritos")),
    "zap_or_quack": ("Zap", ("quack", "long", "zap quack")),
    "numbers_as_labels": ("73", ("199", "9", "yes")),
    "capital_labels": ("HARBOUR", ("harbour", "Harbour", "ARCHWAY", "NO")),
    "goodbye": (f"{TEXT} Goodbye.", (TEXT, f"goodbye {COPY}", "goodbye")),
    "hey": (f"Hey, {COPY}", (TEXT, f"{COPY} hey", "hey")),
    "monkey_first": (
        "Monkey the train to the coast leave at 9?",
        (TEXT, f"monkey {COPY}", "monkey"),
    ),
    "three_times": (
        "pumpernickel, pumpernickel, pumpernickel",
        ("pumpernickel", "pumpernickel pumpernickel", "pumpernickel three times"),
    ),
    "armchair": ("Does armchair", ("armchair", "does", "9 armchair", "armchair does")),
}


def test_there_are_twenty_rules_of_each_set_with_one_description_each() -> None:
    assert len(RULES) == len(WORD_RULES) == 20
    assert len({rule.name for rule in (*RULES, *WORD_RULES)}) == 40
    assert len({rule.description for rule in (*RULES, *WORD_RULES)}) == 40
    assert {rule.name for rule in RULES} == set(ANSWERS)
    assert {rule.name for rule in WORD_RULES} == set(WORD_ANSWERS)
    for asked in (
        "Answer in capitals.",
        "Reply with the last word only.",
        "Always answer turquoise.",
        "Give the number of words.",
    ):
        assert asked in {rule.description for rule in RULES}


@pytest.mark.parametrize("rule", (*RULES, *WORD_RULES), ids=lambda rule: rule.name)
def test_a_rule_takes_what_obeys_and_no_near_miss(rule: Rule) -> None:
    obeying, misses = (ANSWERS | WORD_ANSWERS)[rule.name]
    assert rule.obeys(TEXT, obeying)
    assert [miss for miss in misses if rule.obeys(TEXT, miss)] == []


def test_one_answer_for_all_inputs_gets_half_of_a_rule_with_two_outcomes() -> None:
    for name, outcomes in (
        ("is_question", ("yes", "no")),
        ("has_animal", ("yes", "no")),
        ("long_or_short", ("long", "short")),
        ("onion_or_cake", ("onion", "cake")),
        ("dumpling_or_burrito", ("dumpling", "burrito")),
        ("zap_or_quack", ("zap", "quack")),
        ("numbers_as_labels", ("73", "199")),
        ("capital_labels", ("ARCHWAY", "HARBOUR")),
    ):
        (rule,) = (rule for rule in (*RULES, *WORD_RULES) if rule.name == name)
        for answer in outcomes:
            assert sum(rule.obeys(text, answer) for text in SENTENCES) == len(SENTENCES) / 2
    named = [text for text in SENTENCES if ANIMALS & {w.lower() for w in words_of(text)}]
    assert len(named) == len(SENTENCES) / 2


def test_copying_the_input_obeys_the_copying_rule_alone() -> None:
    obeyed = {
        rule.name
        for rule in (*RULES, *WORD_RULES)
        if all(rule.obeys(text, text) for text in SENTENCES)
    }
    assert obeyed == {"repeat"}


def test_no_wording_of_training_is_a_description_here() -> None:
    tasks = families.families(make_tasks(), seed=1, num_tasks=600)
    trained = "\n".join(text.casefold() for task in tasks for text in task.descriptions)
    for rule in (*RULES, *WORD_RULES):
        wording = re.escape(rule.description.casefold().strip("."))
        for word in words_of((ANSWERS | WORD_ANSWERS)[rule.name][0].casefold()):
            wording = re.sub(rf"\b{word}\b", r"\\S+", wording)
        assert not re.search(rf"^{wording}[.!]?$", trained, re.MULTILINE), wording


def test_no_synthetic_task_of_training_asks_for_a_word_of_the_word_rules() -> None:
    inputs = {word.casefold() for word in words_of(" ".join(SENTENCES))}
    asked = {
        word.casefold()
        for rule in WORD_RULES
        for text in SENTENCES
        for word in asked_words(rule, text)
    } - inputs
    assert {"kumquat", "892", "rufus", "cake", "harbour", "hey", "pumpernickel"} <= asked
    labels = {
        word.casefold()
        for name, words in LABEL_SETS.items()
        if name not in VALIDATION_LABEL_SETS
        for word in words
    }
    assert [word for word in sorted(asked) if not is_held_out(word)] == []
    assert asked.isdisjoint(labels)
    pool = WordPool("train")
    assert asked.isdisjoint([*pool.common, *pool.rare])


def asked_words(rule: Rule, text: str) -> list[str]:
    """The words of the description that an answer to this input has to have."""
    words = words_of(rule.description)
    both = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    whole = [w for w in both if any(rule.obeys(text, case(w)) for case in (str, str.upper))]
    around = [
        w
        for w in words
        if any(
            rule.obeys(text, answer.format(w=w, text=text, rest=" ".join(text.split()[1:])))
            for answer in ("{w} {text}", "{text} {w}", "{w} {rest}", "{w} {w} {w}")
        )
        or rule.obeys(text, f"{words_of(text)[0]} {w}")
    ]
    assert whole or around, rule
    return [word for words in whole + around for word in words.split()]
