"""Each rule accepts the right answer and no near miss; adapters, base and prompt are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.evaluation.obedience import ANIMALS, RULES, SENTENCES, run_obedience, words_of
from text_to_lora.lora.weights import LoraWeights

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


def test_there_are_twenty_rules_with_one_description_each() -> None:
    assert len(RULES) == len({rule.name for rule in RULES}) == 20
    assert len({rule.description for rule in RULES}) == 20
    assert {rule.name for rule in RULES} == set(ANSWERS)
    for asked in (
        "Answer in capitals.",
        "Reply with the last word only.",
        "Always answer turquoise.",
        "Give the number of words.",
    ):
        assert asked in {rule.description for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_takes_what_obeys_and_no_near_miss(rule: object) -> None:
    found = next(r for r in RULES if r is rule)
    obeying, misses = ANSWERS[found.name]
    assert found.obeys(TEXT, obeying)
    assert [miss for miss in misses if found.obeys(TEXT, miss)] == []


def test_one_answer_for_all_inputs_gets_half_of_a_rule_with_two_outcomes() -> None:
    for name, outcomes in (
        ("is_question", ("yes", "no")),
        ("has_animal", ("yes", "no")),
        ("long_or_short", ("long", "short")),
    ):
        (rule,) = (rule for rule in RULES if rule.name == name)
        for answer in outcomes:
            assert sum(rule.obeys(text, answer) for text in SENTENCES) == len(SENTENCES) / 2
    named = [text for text in SENTENCES if ANIMALS & {w.lower() for w in words_of(text)}]
    assert len(named) == len(SENTENCES) / 2


def test_copying_the_input_obeys_the_copying_rule_alone() -> None:
    obeyed = {rule.name for rule in RULES if all(rule.obeys(text, text) for text in SENTENCES)}
    assert obeyed == {"repeat"}


def test_no_wording_of_training_is_a_description_here() -> None:
    from text_to_lora.tasks import families, label_sets, wordings

    sources = [
        Path(str(module.__file__)).read_text(encoding="utf-8").casefold()
        for module in (families, label_sets, wordings)
    ]
    for rule in RULES:
        assert not any(rule.description.casefold().strip(".") in text for text in sources)


def test_base_prompt_and_adapters_answer_each_rule_on_each_input(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    tmp_path: Path,
) -> None:
    asked: list[Sequence[str]] = []

    def keep(texts: Sequence[str]) -> LoraWeights:
        asked.append(texts)
        return generate(base)(texts)

    rules, sentences = RULES[:4], ("a b c", "d e")
    result = run_obedience(
        base=base,
        tokenizer=tokenizer,
        generate=keep,
        output_dir=tmp_path,
        rules=rules,
        sentences=sentences,
        max_new_tokens=6,
    )
    assert asked == [[rule.description for rule in rules]]
    assert json.loads((tmp_path / "obedience.json").read_text()) == result
    assert list(result["mean"]) == ["base", "in_prompt", "adapter"]
    for rule in rules:
        found = result["rules"][rule.name]
        assert found["description"] == rule.description
        for name, answers in found["answers"].items():
            obeyed = [rule.obeys(text, a) for text, a in zip(sentences, answers, strict=True)]
            assert found["obeyed"][name] == sum(obeyed) / 2
    base_answers = {tuple(rule["answers"]["base"]) for rule in result["rules"].values()}
    assert len(base_answers) == 1  # the base sees the input alone
    adapted_answers = {tuple(rule["answers"]["adapter"]) for rule in result["rules"].values()}
    assert len(adapted_answers) > 1
    assert set(result["differences"]) == {"adapter - base", "adapter - in_prompt"}
    table = (tmp_path / "obedience.md").read_text()
    assert "| description | base | in_prompt | adapter |" in table
    assert all(f"| {rule.description} |" in table for rule in rules)
    assert (tmp_path / "obedience.png").read_bytes()[:4] == b"\x89PNG"
