from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer, count_dropped, effect
from text_to_lora.lora import LoraWeights, adapted
from text_to_lora.models.base import load_base
from text_to_lora.tasks.prompts import PromptFormat

INPUTS = ["a", "the sun is warm today", "good morning"]


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Any:
    return load_base(base_folder)


@pytest.fixture(scope="module")
def weights(hypernet_folder: Path) -> LoraWeights:
    t2l = TextToLora.from_pretrained(hypernet_folder)
    return t2l.generate(["Answer in capitals", "Say no"]).weights


def test_a_batch_answers_as_single_inputs_do(base: Any, weights: LoraWeights) -> None:
    together = answer(*base, INPUTS, weights=weights, rows=[0, 1, 1], max_new_tokens=6)
    alone = [
        answer(*base, [text], weights=weights, rows=[row], max_new_tokens=6)[0]
        for text, row in zip(INPUTS, [0, 1, 1], strict=True)
    ]
    assert together == alone
    assert together != answer(*base, INPUTS, max_new_tokens=6)


def test_parts_answer_and_move_as_the_whole_does(
    base: Any, weights: LoraWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, rows = INPUTS + INPUTS[:2], [0, 1, 1, 0, 1]

    def run() -> tuple[list[str], torch.Tensor]:
        texts = answer(*base, inputs, weights=weights, rows=rows, max_new_tokens=4)
        return texts, effect(*base, inputs, texts, weights, rows=rows)

    whole, moved = run()
    monkeypatch.setattr("text_to_lora.inference.answers.TOKENS_PER_PASS", 70)
    parts, moved_in_parts = run()
    assert parts == whole
    # other batches round otherwise
    torch.testing.assert_close(moved_in_parts, moved, rtol=1e-3, atol=1e-5)


def test_more_tokens_than_the_context_are_refused(base: Any) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens is 256; this base reads 256 tokens"):
        answer(*base, INPUTS, max_new_tokens=256)


def test_the_description_stands_in_the_prompt_only_when_given(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = base
    seen: list[str] = []
    original = model.generate

    def spy(prompts: torch.Tensor, **options: Any) -> Any:
        seen.append(tokenizer.decode(prompts[0]))
        return original(prompts, **options)

    monkeypatch.setattr(model, "generate", spy)
    answer(model, tokenizer, ["hello"], max_new_tokens=1)
    answer(model, tokenizer, ["hello"], description="Be brief", max_new_tokens=1)
    assert seen == ["Input: hello\nAnswer:", "Task: Be brief\nInput: hello\nAnswer:"]


def test_a_long_input_is_cut_to_the_context(base: Any) -> None:
    texts = ["short", "x" * 1000]
    with pytest.warns(
        T2LWarning, match="reads 252 tokens of a prompt beside an answer of 4; it did"
    ):
        assert len(answer(*base, texts, max_new_tokens=4)) == 2
    first, second = count_dropped(*base, texts, max_new_tokens=4)
    assert first == 0
    with pytest.warns(T2LWarning, match=f"first tokens of long inputs: {second} of input 2; short"):
        cut = answer(*base, texts, max_new_tokens=4)
    assert answer(*base, ["short", "x" * (1000 - second)], max_new_tokens=4) == cut


def test_effect_is_the_mean_divergence_of_the_answer_tokens(
    base: Any, weights: LoraWeights
) -> None:
    model, tokenizer = base
    replies = ["yes", "no way", "x"]
    effects = effect(model, tokenizer, INPUTS, replies, weights, rows=[0, 1, 0])
    frame = PromptFormat.for_tokenizer(tokenizer)
    for place, (text, reply, row) in enumerate(zip(INPUTS, replies, [0, 1, 0], strict=True)):
        encoded = frame.encode(tokenizer, text, reply)
        ids = torch.tensor([encoded.prompt_ids + encoded.answer_ids])
        with torch.no_grad():
            plain = model(ids).logits[0].double().softmax(-1)
            with adapted(model, weights, [row]):
                moved = model(ids).logits[0].double().softmax(-1)
        terms = [
            float((moved[at] * (moved[at] / plain[at]).log()).sum())
            for at in range(len(encoded.prompt_ids) - 1, ids.shape[1] - 1)
        ]
        assert len(terms) == len(reply) + 2  # the space before it and the end of the turn
        # float32 logits against float64 probabilities
        assert float(effects[place]) == pytest.approx(sum(terms) / len(terms), rel=1e-3)


def test_an_adapter_of_strength_zero_has_no_effect(base: Any, weights: LoraWeights) -> None:
    none = effect(*base, INPUTS, INPUTS, weights.scale(0.0))
    assert torch.equal(none, torch.zeros(3))
