from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import SMALL_EFFECT, answer
from text_to_lora.models.base import load_base


def test_base_and_adapted_answers_stand_beside_each_other(
    t2l: Any, hypernet_folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "inputs.txt"
    listed.write_text("good morning\n", encoding="utf-8")
    options = ("-i", "the sun", "--input-file", listed, "-m", hypernet_folder)
    limit = ("--max-new-tokens", 5)
    done = t2l("run", "Answer in capitals", *options, *limit, "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    inputs = ["the sun", "good morning"]
    model = load_base(base_folder)
    weights = TextToLora.from_pretrained(hypernet_folder).generate(["Answer in capitals"]).weights
    plain = answer(*model, inputs, max_new_tokens=5)
    moved = answer(*model, inputs, weights=weights, max_new_tokens=5)
    assert [row["input"] for row in facts["answers"]] == inputs
    assert [row["base"] for row in facts["answers"]] == plain
    assert [row["adapted"] for row in facts["answers"]] == moved
    assert plain != moved
    assert facts["effect_nats"] > SMALL_EFFECT

    text = t2l("run", "Answer in capitals", *options, *limit).out
    assert f"input    the sun\nbase     {plain[0]}\nadapted  {moved[0]}\n" in text
    assert f"effect   {facts['effect_nats']:.3f} nats per answer token" in text


def test_an_adapter_of_a_folder_answers_as_its_description_does(
    t2l: Any, hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l("generate", "Answer in capitals", "-o", tmp_path / "a", "-m", hypernet_folder)
    options = ("-i", "the sun", "--max-new-tokens", 5, "--strength", 0.7, "--json")
    described = json.loads(t2l("run", "Answer in capitals", *options, "-m", hypernet_folder).out)
    stored = json.loads(t2l("run", "--adapter", tmp_path / "a", *options).out)
    assert stored["adapter"] == str(tmp_path / "a")
    assert stored["answers"] == described["answers"]
    assert stored["effect_nats"] == pytest.approx(described["effect_nats"], rel=1e-4)


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_the_left_of_a_long_input_is_dropped_with_a_warning_and_a_number(
    t2l: Any, hypernet_folder: Path
) -> None:
    texts = ["short", "x" * 250, "y" * 300]
    inputs = [option for text in texts for option in ("-i", text)]
    done = t2l("run", "Say 🎉", *inputs, "-m", hypernet_folder, "--json", "--max-new-tokens", 6)
    assert done.code == 0
    facts = json.loads(done.out)
    # a context of 256 tokens, 6 of an answer; "Input: ", "\n" and "Answer:" of the prompt
    assert [row["tokens_dropped"] for row in facts["answers"]] == [0, 15, 65]
    names = ("description", "tokens", "tokens_read", "tokens_unknown")
    assert [facts[name] for name in names] == ["Say 🎉", 2, 2, 0]
    assert done.err.splitlines()[0] == (
        "warning: this base reads 250 tokens of a prompt beside an answer of 6; it did not read the "
        "first tokens of long inputs: 15 of input 2, 65 of input 3; shorten them"
    )


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_an_adapter_that_changes_nothing_is_warned_of(t2l: Any, idle_hypernet_folder: Path) -> None:
    done = t2l("run", "Say yes", "-i", "a", "-m", idle_hypernet_folder, "--max-new-tokens", 2)
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert done.err.startswith("warning: the adapter hardly changes the base (0.0000 nats")


def test_a_strength_that_leaves_the_range_of_numbers_is_refused(
    t2l: Any, hypernet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    nothing = torch.full((1,), torch.nan)
    monkeypatch.setattr("text_to_lora.inference.answers.effect", lambda *_: nothing)
    done = t2l("run", "Say yes", "-i", "a", "-m", hypernet_folder, "--strength", 900)
    assert done.code == 2
    assert done.err.startswith("error: the adapter's effect is nan: strength 900.0")
