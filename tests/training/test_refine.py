"""Adapters trained on a few rows: kept-out rows choose the step, and what is interrupted goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from text_to_lora import T2LError
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.inference.answers import answer
from text_to_lora.lora import LoraSpec, LoraWeights, adapted
from text_to_lora.models.base import load_base
from text_to_lora.training import loop
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint_learner import Mark, best_mark
from text_to_lora.training.refine import Refined, refine_adapters
from text_to_lora.training.refine_folds import is_due, make_folds, outlook
from text_to_lora.training.refine_match import UNRELATED
from text_to_lora.training.refine_settings import Limits, RefineSettings, RefineTask
from text_to_lora.training.step_adapters import StackedAdapters, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]
Refine = Callable[..., Refined]
SETTINGS: dict[str, Any] = {"rate": 0.02, "pull": 0.1, "max_answer_tokens": 16}


def rows(answers: str | Sequence[str], count: int) -> tuple[tuple[str, str], ...]:
    names = [answers] if isinstance(answers, str) else answers
    return tuple(("x" * (1 + (7 * i) % 23) + str(i), names[i % len(names)]) for i in range(count))


def task(answers: str | Sequence[str] = "red", count: int = 9, name: str = "colours") -> RefineTask:
    return RefineTask(name, "Say the colour.", rows(answers, count))


@pytest.fixture(scope="module")
def loaded(base_folder: Path) -> Loaded:
    return load_base(base_folder)


def start(model: Any, count: int = 1) -> LoraWeights:
    """LoRA's usual start, which changes nothing."""
    spec = LoraSpec.from_config(model.config, targets=["q_proj", "down_proj"], rank=2, alpha=4)
    return read_weights(StackedAdapters(spec, count, torch.Generator().manual_seed(3)))


@pytest.fixture
def refine(loaded: Loaded) -> Refine:
    def call(*tasks: RefineTask, limits: Limits | None = None, **options: Any) -> Refined:
        names = ("state", "resume", "report", "clock", "start", "unrelated")
        given = {name: options.pop(name) for name in names if name in options}
        first = given.pop("start", None) or start(loaded[0], len(tasks))
        settings = RefineSettings.make(**{**SETTINGS, **options})
        chosen = limits or Limits(seconds=None, steps=6)
        return refine_adapters(first, tasks, *loaded, settings, chosen, **given)

    return call


def loss_alone(loaded: Loaded, weights: LoraWeights, drawn: Sequence[tuple[str, str]]) -> float:
    """Mean over rows of the mean over answer tokens, a row at a time."""
    model, tokenizer = loaded
    limits = {"max_prompt_tokens": 240, "max_answer_tokens": 16}
    encoder = RowEncoder(tokenizer, **limits)
    losses = []
    for row in drawn:
        prompt, reply = map(list, encoder.encode(*row))
        with torch.no_grad(), adapted(model, weights):
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
        predicted = logits[len(prompt) - 1 : len(prompt) + len(reply) - 1]
        losses.append(float(torch.nn.functional.cross_entropy(predicted, torch.tensor(reply))))
    return sum(losses) / len(losses)


def assert_equal(one: LoraWeights, other: LoraWeights, **tolerance: float) -> None:
    for key in one.a:
        torch.testing.assert_close(one.delta(key), other.delta(key), **tolerance)


@pytest.fixture(scope="module")
def refined(loaded: Loaded) -> Refined:
    settings = RefineSettings.make(**SETTINGS)
    limits = Limits(seconds=None, steps=20)
    return refine_adapters(start(loaded[0]), [task()], *loaded, settings, limits)


def test_training_makes_rows_likelier_that_it_never_saw(refined: Refined) -> None:
    (record,) = refined.records
    figures = record["kept_out"]
    assert figures["base"] == figures["sentence"]  # this start changes nothing
    assert figures["refined"]["loss"] < 0.5 * figures["base"]["loss"]
    assert (record["rows"], record["kept_out_rows"], record["kept_out_by"]) == (
        9,
        2,
        "a share kept out",
    )
    assert 0 < record["steps"] <= record["steps_tried"] <= 20
    assert record["by_step"][0][:2] == [0, figures["base"]["loss"]]
    assert len(record["rows_sha256"]) == 64


def test_the_figures_are_those_of_the_adapter_on_the_kept_out_rows(
    loaded: Loaded, refined: Refined
) -> None:
    (job,) = make_folds(task(), RefineSettings.make(**SETTINGS), 20)
    assert not set(job.selection) & set(job.rows)
    figures = refined.records[0]["kept_out"]
    alone = loss_alone(loaded, refined.weights, job.selection)
    assert figures["refined"]["loss"] == pytest.approx(alone, abs=2e-4)
    before = loss_alone(loaded, start(loaded[0]), job.selection)
    assert figures["base"]["loss"] == pytest.approx(before, abs=2e-4)
    inputs = [text for text, _ in job.selection]
    replies = answer(*loaded, inputs, weights=refined.weights, rows=[0] * len(inputs))
    right = [reply == expected for reply, (_, expected) in zip(replies, job.selection, strict=True)]
    assert figures["refined"]["score"] == sum(right) / len(right)


def test_a_start_that_no_step_improves_is_kept_bit_by_bit(refined: Refined, refine: Refine) -> None:
    result = refine(task(), rate=30.0, pull=0.0, start=refined.weights)
    assert result.records[0]["steps"] == 0
    assert "more time would likely not help" in result.records[0]["outlook"]
    assert_equal(result.weights, refined.weights, atol=0, rtol=0)


def test_tasks_trained_together_are_as_if_alone(refine: Refine) -> None:
    tasks = task("red", 9), task(["up", "down"], 4, name="ways"), task("green", 12)
    together = refine(*tasks)
    for place, single in enumerate(tasks):
        alone = refine(single)
        # Adam divides by the root of a moment, which enlarges what batching changes in the last bit.
        assert_equal(together.weights.select([place]), alone.weights, atol=5e-4, rtol=1e-2)
        assert together.records[place]["steps"] == alone.records[0]["steps"]


def test_under_eight_rows_each_is_left_out_in_turn_and_all_train_the_result(
    refine: Refine, loaded: Loaded
) -> None:
    small = task("red", 5)
    folds = make_folds(small, RefineSettings.make(**SETTINGS), 100)
    assert sorted(row for job in folds for row in job.selection) == sorted(small.rows)
    assert all(set(job.rows) == set(small.rows) - set(job.selection) for job in folds)
    assert {job.num_steps for job in folds} == {16}
    result = refine(small)
    record = result.records[0]
    assert (record["kept_out_rows"], record["kept_out_by"]) == (5, "each left out in turn")
    assert record["steps"] > 0
    base_loss = loss_alone(loaded, start(loaded[0]), small.rows)
    assert record["kept_out"]["base"]["loss"] == pytest.approx(base_loss, abs=2e-4)
    assert loss_alone(loaded, result.weights, small.rows) < record["kept_out"]["sentence"]["loss"]


def test_the_rows_that_are_kept_out_do_not_depend_on_their_order() -> None:
    settings = RefineSettings.make()
    single = task(["yes", "no", "perhaps"], 30)
    (job,) = make_folds(single, settings, 3)
    (turned,) = make_folds(RefineTask("t", "d", single.rows[::-1]), settings, 3)
    assert job.selection == turned.selection and len(job.selection) == 8
    counts = [
        sum(reply == label for _, reply in job.selection) for label in ("yes", "no", "perhaps")
    ]
    assert sorted(counts) == [2, 3, 3]


class Killed(Exception):
    """Stands for the end of the process."""


def kill_after(calls: int) -> Callable[[str], None]:
    count = 0

    def report(line: str) -> None:
        nonlocal count
        count += line.startswith("step")
        if count == calls:
            raise Killed

    return report


def test_what_was_killed_goes_on_to_the_same_result(
    refine: Refine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(loop, "_SAVE_SHARE", 1e9)
    tasks = task("red", 9), task("blue", 3, name="few")
    whole = refine(*tasks)
    state = RunFolder(tmp_path / "state")
    with pytest.raises(Killed):
        refine(*tasks, state=state, report=kill_after(4))
    lines: list[str] = []
    resumed = refine(*tasks, state=state, report=lines.append)
    assert lines[0].startswith("resuming after step 3") and len(lines) == 4
    assert_equal(resumed.weights, whole.weights, atol=0, rtol=0)
    for one, other in zip(resumed.records, whole.records, strict=True):
        assert one["by_step"] == other["by_step"]


def test_ctrl_c_waits_for_the_step_and_keeps_the_state(refine: Refine, tmp_path: Path) -> None:
    def press(line: str) -> None:
        if line.startswith("step 2"):
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    state = RunFolder(tmp_path / "state")
    with pytest.raises(KeyboardInterrupt):
        refine(task(), state=state, report=press)
    assert signal.getsignal(signal.SIGINT) is handler
    lines: list[str] = []
    resumed = refine(task(), state=state, report=lines.append)
    assert lines[0].startswith("resuming after step 2")
    assert_equal(resumed.weights, refine(task()).weights, atol=0, rtol=0)


def test_finished_work_goes_on_with_a_higher_limit(refine: Refine, tmp_path: Path) -> None:
    state = RunFolder(tmp_path / "state")
    refine(task(), state=state, limits=Limits(seconds=None, steps=2))
    longer = refine(task(), state=state)
    assert_equal(longer.weights, refine(task()).weights, atol=0, rtol=0)


def test_work_on_other_rows_is_not_gone_on_with(refine: Refine, tmp_path: Path) -> None:
    state = RunFolder(tmp_path / "state")
    few = Limits(seconds=None, steps=1)
    refine(task(), state=state, limits=few)
    with pytest.raises(ConfigError, match=r"has other settings: inputs.rows: .* with --fresh"):
        refine(task("green"), state=state, limits=few)
    refine(task("green"), state=state, limits=few, resume=False)


class Clock:
    """Gives 0, 1, 2, ... seconds, one more at each look."""

    def __init__(self) -> None:
        self.seconds = -1.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def test_seconds_end_the_training_before_the_step_that_would_exceed_them(refine: Refine) -> None:
    clock = Clock()
    record = refine(task(), limits=Limits(seconds=12.0), clock=clock).records[0]
    assert 0 < record["steps_tried"] < 6
    assert record["seconds"] <= 13  # the last look at this clock is a second later
    longer = refine(task(), limits=Limits(seconds=24.0), clock=Clock()).records[0]
    assert longer["steps_tried"] > record["steps_tried"]


def test_rows_that_suit_an_unrelated_sentence_better_are_warned_of(
    refine: Refine, loaded: Loaded
) -> None:
    few = Limits(seconds=None, steps=1)
    blue = refine(task("blue"), limits=Limits(seconds=None, steps=12)).weights
    others = start(loaded[0], len(UNRELATED))
    refine(
        task("blue"), start=blue, unrelated=others, limits=few
    )  # which are no better: no warning
    others = LoraWeights.stack([others.unbind()[0], blue, others.unbind()[2]])
    message = (
        rf"{UNRELATED[1]}' suits the rows of colours better \(\d.* nats a token\) than that of the "
        r"description \(\d.*\): rows and description may be of different tasks"
    )
    with pytest.warns(T2LWarning, match=message):
        refine(task("blue"), unrelated=others, limits=few)


def test_a_rate_that_breaks_the_numbers_is_named(refine: Refine) -> None:
    message = r"loss of colours is n.* at step \d; the learning rate is 1e\+25, lower it"
    with pytest.raises(T2LError, match=message):
        refine(task(), rate=1e25)


def test_long_inputs_are_counted_in_a_warning(refine: Refine) -> None:
    long = RefineTask("t", "d", (*rows("red", 8), ("y" * 300, "red")))
    with pytest.warns(T2LWarning, match="1 of 9 inputs are longer than 240 tokens and lose their"):
        refine(long, limits=Limits(seconds=None, steps=1))


def test_adapters_beyond_the_memory_are_refused(refine: Refine) -> None:
    with pytest.raises(ConfigError, match=r"2 adapters at once need .* memory_gib is 1e-05; give"):
        refine(task(), task(), memory_gib=1e-5)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"seconds": None}, "neither seconds nor steps are given"),
        ({"seconds": float("nan")}, "seconds is nan; a positive number"),
    ],
)
def test_limits_that_cannot_be_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**limits)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_out is 1\.0; it should be less than 1"):
        RefineSettings.make(keep_out=1.0)
    with pytest.raises(ConfigError, match="rate is -1; it should be greater than 0"):
        RefineSettings.make(rate=-1)
    with pytest.raises(ConfigError, match="lr is 3; Extra inputs are not permitted"):
        RefineSettings.make(lr=3)


def marks(*losses: float) -> list[Mark]:
    return [Mark(step, loss, 0.0) for step, loss in enumerate(losses)]


def test_the_first_step_with_the_lowest_loss_is_chosen() -> None:
    assert best_mark(marks(3.0, 1.0, 2.0, 1.0)).step == 1


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((3.0, 2.0), "too few steps"),
        ((3.0, 2.0, 2.5, 2.6, 2.7), "not help: of 4 steps the kept-out loss was lowest after 1"),
        ((3.0, 2.0, 1.5, 1.2, 1.1), "lower the kept-out loss by about 0.40 nats"),
        ((3.0, 2.0, 1.5, 1.5, 1.499), "change little: .* lowered the kept-out loss by 0.001"),
    ],
)
def test_the_outlook_follows_the_slope(losses: tuple[float, ...], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(outlook(marks(*losses)))


def test_judging_becomes_rarer_as_steps_add_up() -> None:
    due = [step for step in range(1, 40) if is_due(step)]
    assert due == [*range(1, 16), 16, 18, 20, 22, 24, 27, 30, 32, 36]
