"""The base's training: schedule, alignment, losses and resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import BertLMHeadModel, BertModel, PreTrainedTokenizerFast

from text_to_lora.tasks.task import Example, Metric, Task
from text_to_lora.training.base import (
    BasePlan,
    InstructionRows,
    answer_nll,
    text_nll,
    train_base,
    warm_start,
)
from text_to_lora.training.base_tokenizer import build_tokenizer

PLAN = BasePlan(text_steps=2, instruction_steps=4, text_rows=2, instruction_rows=3, window=8)


@pytest.fixture
def started(encoder_folder: Path) -> tuple[BertLMHeadModel, PreTrainedTokenizerFast]:
    tokenizer, origin = build_tokenizer(encoder_folder, ["a b c"], vocab_size=120)
    return warm_start(encoder_folder, tokenizer, origin).eval(), tokenizer


def rows_of(tokenizer: PreTrainedTokenizerFast, plan: BasePlan = PLAN) -> InstructionRows:
    examples = tuple(Example(input=f"a {i}", outputs=("b",), idx=i) for i in range(20))
    task = Task("t", "copy", ("copy", "do it"), examples, Metric("exact_match"))
    return InstructionRows(tokenizer, [task], [task], plan)


def test_learning_rate_ends_at_zero_and_peaks_after_the_warm_up() -> None:
    plan = replace(PLAN, text_steps=50, instruction_steps=50, warmup=0.1, learning_rate=1.0)
    rates = [plan.rate(step) for step in range(100)]
    assert max(rates) == plan.rate(9) == 1.0
    assert plan.rate(100) == 0.0
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_warm_start_carries_the_encoder_and_is_causal(
    encoder_folder: Path, started: tuple[BertLMHeadModel, PreTrainedTokenizerFast]
) -> None:
    model, _ = started
    encoder = BertModel.from_pretrained(encoder_folder, add_pooling_layer=False)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(model.bert.state_dict()[name], encoder.state_dict()[name])
    ids = torch.randint(6, 40, (1, 9))
    changed = ids.clone()
    changed[0, -1] = 41
    assert torch.allclose(model(ids).logits[:, :-1], model(changed).logits[:, :-1], atol=1e-6)


def test_rows_of_a_step_depend_on_the_step_alone(
    started: tuple[BertLMHeadModel, PreTrainedTokenizerFast],
) -> None:
    first, second = rows_of(started[1]), rows_of(started[1])
    second.batch(3)
    assert first.batch(7) == second.batch(7)
    assert first.batch(7) != first.batch(8)


def test_answer_nll_equals_a_loop_over_rows_without_padding(
    started: tuple[BertLMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, _ = started
    prompts, answers = [[7, 8, 9, 10], [11], [12, 13]], [[14, 5], [15, 16, 17, 5], [5]]
    with torch.no_grad():
        batched = answer_nll(model, prompts, answers)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            scores = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            naive = [-scores[place, token] for place, token in zip(places, answer, strict=True)]
            assert torch.isclose(batched[row], torch.stack(naive).mean(), atol=1e-5)


def test_text_nll_at_all_positions_is_the_usual_loss(
    started: tuple[BertLMHeadModel, PreTrainedTokenizerFast],
) -> None:
    model, _ = started
    ids = torch.randint(6, 40, (2, 12))
    usual = model(ids, labels=ids).loss
    assert torch.isclose(text_nll(model, ids, torch.arange(11)), usual, atol=1e-5)


def test_training_lowers_the_loss_and_ends_the_same_after_a_cut(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, origin = build_tokenizer(encoder_folder, ["a b c"], vocab_size=120)
    text = torch.randint(6, 40, (64,))
    rows = rows_of(tokenizer)

    def model() -> BertLMHeadModel:
        torch.manual_seed(0)
        return warm_start(encoder_folder, tokenizer, origin)

    whole = model()
    facts = train_base(whole, PLAN, text, rows, tmp_path / "whole", report=lambda line: None)
    assert facts["steps"] == 6 and math.isfinite(facts["seconds"])

    # A clock that jumps saves after every step; the fourth step then fails, and a rerun goes on.
    monkeypatch.setattr("text_to_lora.training.base.SAVE_SECONDS", -1.0)
    cut, calls = model(), 0
    drawn = rows.batch

    def fail(step: int) -> tuple[list[list[int]], list[list[int]]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return drawn(step)

    monkeypatch.setattr(rows, "batch", fail)
    with pytest.raises(KeyboardInterrupt):
        train_base(cut, PLAN, text, rows, tmp_path / "cut", report=lambda line: None)
    monkeypatch.setattr(rows, "batch", drawn)
    again = model()
    train_base(again, PLAN, text, rows, tmp_path / "cut", report=lambda line: None)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
