"""Each rule accepts the right answer and no near miss; adapters, base and prompt are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.obedience import (
    ANIMALS,
    RULES,
    SENTENCES,
    Rule,
    build_obedience,
    run_obedience,
    words_of,
)
from text_to_lora.evaluation.scoring import Scorer
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


# Random models obey few rules; these hold for about half of what they write.
FEW = (
    *RULES[:2],
    Rule("long", "a b", lambda text, answer: len(answer) > 6),
    Rule("early", "b c", lambda text, answer: answer[:1] < "n"),
    Rule("empty", "c d", lambda text, answer: answer.count("a") % 2 == 0),
)
TEXTS = ("a b c", "d e", "f")


@pytest.fixture
def judge(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    tmp_path: Path,
) -> Callable[..., dict[str, Any]]:
    """Judge the tiny base and made-up adapters by a few rules, into tmp_path."""

    def run(**changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "base": base,
            "tokenizer": tokenizer,
            "generate": generate(base),
            "output_dir": tmp_path,
            "rules": FEW,
            "sentences": TEXTS,
            "max_new_tokens": 6,
        }
        return run_obedience(**(options | changes))

    return run


def test_base_prompt_and_adapters_answer_each_rule_on_each_input(
    judge: Callable[..., dict[str, Any]],
    base: PreTrainedModel,
    generate: Callable[[PreTrainedModel], Callable[[Sequence[str]], LoraWeights]],
    tmp_path: Path,
) -> None:
    asked: list[Sequence[str]] = []

    def keep(texts: Sequence[str]) -> LoraWeights:
        asked.append(texts)
        return generate(base)(texts)

    result = judge(generate=keep)
    assert asked == [[rule.description for rule in FEW]]
    assert json.loads((tmp_path / "obedience.json").read_text()) == result
    assert list(result["mean"]) == ["base", "in_prompt", "adapter"]
    for rule in FEW:
        found = result["rules"][rule.name]
        assert found["description"] == rule.description
        for name, answers in found["answers"].items():
            obeyed = [rule.obeys(text, a) for text, a in zip(TEXTS, answers, strict=True)]
            assert found["obeyed"][name] == sum(obeyed) / len(TEXTS)
    base_answers = {tuple(rule["answers"]["base"]) for rule in result["rules"].values()}
    assert len(base_answers) == 1  # the base sees the input alone
    adapted_answers = {tuple(rule["answers"]["adapter"]) for rule in result["rules"].values()}
    assert len(adapted_answers) > 1
    assert set(result["differences"]) == {"adapter - base", "adapter - in_prompt"}
    table = (tmp_path / "obedience.md").read_text()
    assert "| description | base | in_prompt | adapter |" in table
    assert all(f"| {rule.description} |" in table for rule in FEW)
    assert (tmp_path / "obedience.png").read_bytes()[:4] == b"\x89PNG"


def test_means_have_intervals_over_rules(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge()
    rng = numpy.random.default_rng(5)
    spread = 0.0
    for name, mean in result["mean"].items():
        shares = [rule["obeyed"][name] for rule in result["rules"].values()]
        assert mean == pytest.approx(sum(shares) / len(shares))
        draws = [sum(rng.choice(shares, len(shares))) / len(shares) for _ in range(4000)]
        ends = result["intervals"][name]
        # Means of five shares of three answers lie 1/15 apart.
        assert ends["low"] == pytest.approx(numpy.percentile(draws, 2.5), abs=0.07)
        assert ends["high"] == pytest.approx(numpy.percentile(draws, 97.5), abs=0.07)
        spread += ends["high"] - ends["low"]
        shown = f"**{mean:.1%}** [{ends['low']:.1%}, {ends['high']:.1%}]"
        assert shown in (tmp_path / "obedience.md").read_text()
    assert spread > 0.3


def test_one_rule_alone_has_no_interval(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge(rules=FEW[:1])
    assert result["intervals"]["adapter"] == {"low": None, "high": None}
    last = next(
        line for line in (tmp_path / "obedience.md").read_text().splitlines() if "**mean" in line
    )
    assert "[" not in last


def test_what_is_finished_is_not_scored_again(
    judge: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = Scorer.score

    def count(self: Scorer, rows: Any, **options: Any) -> Any:
        if options.get("weights") is not None and not scored[2:]:
            scored.append(-1)
            raise KeyboardInterrupt
        scored.append(len(rows))
        return score(self, rows, **options)

    monkeypatch.setattr(Scorer, "score", count)
    with pytest.raises(KeyboardInterrupt):
        judge()
    assert not (tmp_path / "obedience.json").exists()
    lines: list[str] = []
    result = judge(progress=lines.append)
    assert scored == [len(TEXTS), len(FEW) * len(TEXTS), -1, len(FEW) * len(TEXTS)]
    assert lines[:2] == ["base: finished before", "in_prompt: finished before"]
    assert lines[2].startswith("adapter: scored in ")
    whole = judge(output_dir=tmp_path / "whole")
    assert {**whole, "seconds": 0} == {**result, "seconds": 0}
    before = len(scored)
    assert judge() == result
    assert len(scored) == before


def test_the_table_is_made_again_without_a_model(
    judge: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = judge()
    names = ("obedience.json", "obedience.md", "obedience.png")
    files = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    assert build_obedience(tmp_path, rules=FEW) == result
    assert {name: (tmp_path / name).read_bytes() for name in names} == files
    with pytest.raises(ConfigError, match="has answers to other rules; score again into"):
        build_obedience(tmp_path, rules=FEW[:2])
    (tmp_path / "obedience" / "in_prompt.json").unlink()
    with pytest.raises(ConfigError, match=r"in_prompt\.json' does not exist"):
        build_obedience(tmp_path, rules=FEW)


def test_a_folder_of_another_base_adapter_or_setting_is_refused(
    judge: Callable[..., dict[str, Any]],
    base: PreTrainedModel,
    adapters: Callable[..., LoraWeights],
    tmp_path: Path,
) -> None:
    judge(provenance={"hypernet": "one"})
    (tmp_path / "obedience.json").unlink()
    for changes, message in (
        ({"max_new_tokens": 7}, "another 'max_new_tokens'; choose another output folder or delete"),
        ({"provenance": {"hypernet": "two"}}, "another 'provenance'"),
        ({"sentences": TEXTS[:2]}, "another 'sentences'"),
        ({"rules": FEW[:2]}, "another 'rules'"),
        (
            {"generate": lambda texts: adapters(base, len(texts), seed=3)},
            "was scored with other adapters",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            judge(**{"provenance": {"hypernet": "one"}, **changes})
    next(parameter for parameter in base.parameters() if parameter.ndim == 1).data += 0.1
    with pytest.raises(ConfigError, match="has answers with another 'base'"):
        judge(provenance={"hypernet": "one"})
    assert not (tmp_path / "obedience.json").exists()
