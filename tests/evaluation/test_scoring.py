"""Batched, cached scoring with unlike adapters equals one row at a time on merged weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from text_to_lora.errors import ConfigError, TaskDataError
from text_to_lora.evaluation import scoring
from text_to_lora.evaluation.scoring import Answer, Scorer, choose_rows
from text_to_lora.inference.generate import pad_left
from text_to_lora.lora.apply import merge
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Row, Task

END = 5


def prompt_of(tokenizer: PreTrainedTokenizerFast, row: Row, description: str | None) -> list[int]:
    described = f"[TASK] {description} " if description else ""
    text = f"{described}[INPUT] {row.example.input} [ANSWER]"
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def naive_nll(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> float:
    """Sum of -log p of each answer token, from one pass over one row."""
    with torch.no_grad():
        logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return -sum(float(logs[len(prompt) + place - 1, token]) for place, token in enumerate(answer))


def naive_greedy(model: PreTrainedModel, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.fixture(params=["base", "sliding_base"])
def any_base(request: pytest.FixtureRequest) -> PreTrainedModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.mark.parametrize("described", [False, True])
def test_scores_equal_one_row_at_a_time_on_merged_weights(
    any_base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[Task],
    adapters: Callable[..., LoraWeights],
    described: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 120)
    rows = choose_rows(tasks, rows_per_task=3, seed=0)
    weights = adapters(any_base, 3)
    chosen = [place % 3 for place in range(len(rows))]
    texts = [row.task.definition if described else None for row in rows]
    merged = [deepcopy(any_base) for _ in range(3)]
    for model, adapter in zip(merged, weights.unbind(), strict=True):
        merge(model, adapter)
    scorer = Scorer(any_base, tokenizer, max_new_tokens=8, max_length=48, label_likelihood=True)
    answers = scorer.score(rows, weights=weights, adapters=chosen, prompt_texts=texts)
    assert len({answer.text for answer in answers}) > 3
    for row, adapter, text, answer in zip(rows, chosen, texts, answers, strict=True):
        prompt = prompt_of(tokenizer, row, text)
        reference = [*tokenizer(row.example.outputs[0]).input_ids, END]
        nll = naive_nll(merged[adapter], prompt, reference)
        # float32 over padded and unpadded sums
        assert answer.nll * answer.tokens == pytest.approx(nll, rel=1e-4, abs=1e-4)
        assert answer.tokens == len(reference)
        right = [*row.example.outputs, *row.task.metric.labels]
        limit = 8
        if row.task.metric.kind != "rougeL":
            limit = min(8, max(len(r.split()) + 1 for r in right) + 4)
        greedy = naive_greedy(merged[adapter], prompt, limit)
        generated = tokenizer.decode(greedy, skip_special_tokens=True)
        # rows of one batch share the longest limit
        assert answer.text.startswith(generated)
        if row.task.metric.labels:
            labels = [
                naive_nll(merged[adapter], prompt, [*tokenizer(label).input_ids, END])
                for label in row.task.metric.labels
            ]
            likeliest = row.task.metric.labels[labels.index(min(labels))]
            assert answer.label_score == float(likeliest in row.example.outputs)
        else:
            assert answer.label_score is None


def test_base_is_scored_without_adapters_and_left_in_its_mode(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: list[Task]
) -> None:
    rows = choose_rows(tasks[:2], rows_per_task=2, seed=0)
    scorer = Scorer(base, tokenizer, max_new_tokens=4, max_length=48)
    base.train()
    first = scorer.score(rows)
    assert base.training
    assert first == scorer.score(rows)  # no dropout


def test_without_generation_there_are_likelihoods_alone(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tasks: list[Task]
) -> None:
    rows = choose_rows(tasks, rows_per_task=2, seed=0)
    without = Scorer(base, tokenizer, max_new_tokens=0, max_length=48).score(rows)
    with_text = Scorer(base, tokenizer, max_new_tokens=4, max_length=48).score(rows)
    assert [a.nll for a in without] == pytest.approx([a.nll for a in with_text], rel=1e-4)
    assert {(a.text, a.score, a.in_labels) for a in without} == {("", None, None)}


def test_long_prompts_are_cut_to_leave_room(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    metric = Metric("rougeL")
    task = Task("t", "d", (), (Example("a " * 100, ("b " * 100,), 5),), metric)
    (answer,) = Scorer(base, tokenizer, max_new_tokens=16).score([Row(task, task.examples[0])])
    assert answer.tokens == 32  # half of the model's 64 positions


@pytest.mark.parametrize("description", [None, "a", "a b c d e f g h i j k l m n o p"])
@pytest.mark.parametrize("answer", ["b", "b " * 9, "b " * 40])
@pytest.mark.parametrize("labels", [(), ("b", "c d e f g h i j k l m n")])
def test_the_room_that_a_prompt_needs_is_the_least_that_fits(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    description: str | None,
    answer: str,
    labels: tuple[str, ...],
) -> None:
    metric = Metric("classification", labels) if labels else Metric("rougeL")
    task = Task("t", "d", (), (Example("a " * 100, (answer,), 5),), metric)
    rows = [Row(task, task.examples[0])]

    def fits(check: str, max_length: int) -> bool:
        scorer = Scorer(
            base, tokenizer, max_new_tokens=4, max_length=max_length, label_likelihood=True
        )
        try:
            if check == "before":
                scorer.check_room([(rows[0], description)])
            else:
                scorer.score(rows, prompt_texts=[description] if description else None)
        except ConfigError:
            return False
        return True

    lengths = range(8, 65)
    least = next(length for length in lengths if fits("in scoring", length))
    assert [fits("before", length) for length in lengths] == [n >= least for n in lengths]


def test_shots_stand_before_the_input_and_the_longest_go_first(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    shots = (Example("a b", ("c",), 0), Example("d " * 12, ("e",), 1), Example("f", ("g",), 2))
    task = Task("t", "d", (), (Example("h", ("i", "j"), 5),), Metric("rougeL"))
    row = Row(task, task.examples[0])

    def score(text: str, max_length: int) -> tuple[float, Answer]:
        """Likelihood by hand after the prompt that is expected, and what the scorer says."""
        scorer = Scorer(base, tokenizer, max_new_tokens=4, max_length=max_length)
        (answer,) = scorer.score([row], shots=[shots])
        prompt = list(tokenizer(text, add_special_tokens=False).input_ids)
        return naive_nll(base, prompt, [*tokenizer("i").input_ids, END]), answer

    first = "[INPUT] a b [ANSWER] c [END]"
    last, question = "[INPUT] f [ANSWER] g [END]", "[INPUT] h [ANSWER]"
    middle = f"[INPUT] {'d ' * 12} [ANSWER] e [END]"
    for text, max_length, cut, num_shots in (
        (f"{first} {middle} {last} {question}", 60, False, 3),
        (f"{first} {last} {question}", 20, True, 2),
        (f"{last} {question}", 13, True, 1),
        (question, 9, True, 0),
    ):
        expected, answer = score(text, max_length)
        assert answer.nll * answer.tokens == pytest.approx(expected, rel=1e-4)
        assert (answer.cut, answer.shots) == (cut, num_shots)


def test_a_cut_prompt_is_marked(base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = (Example("a " * 100, ("b",), 5), Example("a", ("b",), 6))
    task = Task("t", "d", (), examples, Metric("rougeL"))
    rows = [Row(task, example) for example in examples]
    answers = Scorer(base, tokenizer, max_new_tokens=4).score(rows)
    assert [answer.cut for answer in answers] == [True, False]


def test_a_description_without_room_keeps_its_left_and_the_input_its_right(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("t", "d", (), (Example("i j k l", ("b",), 5),), Metric("rougeL"))
    rows, texts = [Row(task, task.examples[0])] * 2, ["a b c d e f g h " * 4, "a b"]
    prompts: list[list[int]] = []

    def keep(of_batch: list[list[int]], device: torch.device) -> Any:
        prompts.extend(of_batch)
        return pad_left(of_batch, device)

    monkeypatch.setattr(scoring, "pad_left", keep)
    options: dict[str, Any] = {"max_new_tokens": 4, "max_length": 24}
    scorer = Scorer(base, tokenizer, **options, cut_descriptions=True)
    answers = scorer.score(rows, prompt_texts=texts)
    assert [answer.cut for answer in answers] == [True, False]
    cut, whole = sorted(prompts, key=len, reverse=True)
    assert tokenizer.decode(whole) == "[TASK] a b [INPUT] i j k l [ANSWER]"
    assert tokenizer.decode(cut) == "[TASK] a b c d e f g [INPUT] i j k l [ANSWER]"
    with pytest.raises(ConfigError, match="raise max_length or shorten the description"):
        Scorer(base, tokenizer, **options).score(rows, prompt_texts=texts)


def test_equal_rows_run_once(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    adapters: Callable[..., LoraWeights],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        Row(
            Task(name, "d", (), (Example("a b", ("c",), 5),), Metric("rougeL")),
            Example("a b", ("c",), 5),
        )
        for name in ("t", "u", "v")
    ]
    sizes: list[int] = []
    monkeypatch.setattr(
        scoring, "pad_left", lambda ids, device: sizes.append(len(ids)) or pad_left(ids, device)
    )
    scorer = Scorer(base, tokenizer, max_new_tokens=4)
    assert len(set(scorer.score(rows))) == 1 and sizes == [1]
    one, other, again = scorer.score(rows, weights=adapters(base, 2), adapters=[0, 1, 0])
    assert sizes[1:] == [2] and one == again != other


def test_wrong_budget_of_new_tokens_is_named(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens is 33; prompt and answer have 64 tokens"):
        Scorer(base, tokenizer, max_new_tokens=33)


def test_rows_are_drawn_alike_whatever_the_order_of_tasks(tasks: list[Task]) -> None:
    rows = choose_rows(tasks, rows_per_task=4, seed=1)
    again = choose_rows(list(reversed(tasks)), rows_per_task=4, seed=1)
    assert {(r.task.name, r.example.idx) for r in rows} == {
        (r.task.name, r.example.idx) for r in again
    }
    assert rows != choose_rows(tasks, rows_per_task=4, seed=2)
    for task in tasks:
        drawn = [row.example.idx for row in rows if row.task is task]
        assert len(drawn) == 4 and drawn == sorted(drawn)
        assert all(idx % 10 >= 5 for idx in drawn)


def test_all_rows_are_taken_without_a_cap(tasks: list[Task]) -> None:
    assert len(choose_rows(tasks[:1], rows_per_task=None, seed=0)) == 10
    rows = choose_rows(tasks[:1], rows_per_task=50, seed=0, examples=Task.validation)
    assert [row.example.idx for row in rows] == [9, 19]


def test_task_without_rows_is_named() -> None:
    task = Task("lonely", "d", (), (Example("x", ("y",), 3),), Metric("exact_match"), source="f")
    with pytest.raises(TaskDataError, match="task 'lonely' has no rows to score"):
        choose_rows([task], rows_per_task=4, seed=0)


def test_cap_below_one_row_is_refused(tasks: list[Task]) -> None:
    with pytest.raises(ConfigError, match="rows_per_task is 0; give at least 1"):
        choose_rows(tasks, rows_per_task=0, seed=0)
