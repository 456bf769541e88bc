"""Which text makes the adapter of each row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import pytest

from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.conditions import JUNK, Condition
from text_to_lora.evaluation.conditions.condition import warn_of_cuts_once
from text_to_lora.evaluation.conditions.described import (
    Hyperdecoder,
    Junk,
    Matched,
    Paraphrase,
)
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row, Task

Generate = Callable[[Sequence[str]], LoraWeights]
Same = Callable[[LoraWeights, LoraWeights], bool]


def keys(condition: Condition, rows: list[Row]) -> list[str | None]:
    """Adapter keys; nothing of these conditions stands in the prompt."""
    plan = condition.plan(rows)
    assert all(setup is None or not (setup.description or setup.shots) for setup in plan)
    return [None if setup is None else setup.adapter for setup in plan]


def test_matched_and_paraphrases_read_the_tasks_own_descriptions(
    tasks: list[Task], rows: list[Row], generate: Generate
) -> None:
    assert keys(Matched(generate), rows) == [row.task.definition for row in rows]
    short = Task("short", "Do.", (), tasks[0].examples, tasks[0].metric, split="dev")
    second = Paraphrase(generate, 2)
    assert second.name == "paraphrase.2"
    chosen = keys(second, [*rows, Row(short, short.examples[5])])
    assert chosen == [f"{row.task.definition} Now." for row in rows] + [None]


def test_junk_texts_come_in_turn(rows: list[Row], generate: Generate) -> None:
    chosen = keys(Junk(generate), rows)
    for name in ("poems", "coins", "birds"):
        of_task = [text for row, text in zip(rows, chosen, strict=True) if row.task.name == name]
        assert of_task == list(JUNK) * 2


def test_adapters_are_those_that_the_hypernetwork_makes(generate: Generate, same: Same) -> None:
    texts = ["Name birds.", "dogs;cats;bananas;"]
    for condition in (Matched(generate), Paraphrase(generate, 1), Hyperdecoder(generate)):
        assert same(condition.adapters(texts), generate(texts))


def test_each_input_makes_the_adapter_of_its_row_and_blank_ones_are_left_out(
    tasks: list[Task], rows: list[Row], generate: Generate
) -> None:
    decoder = Hyperdecoder(generate, {"trained_on": "input"})
    assert decoder.about == {"trained_on": "input"}
    blank = Row(tasks[0], Example("  \n", ("y",), 5))
    assert keys(decoder, [*rows, blank]) == [row.example.input for row in rows] + [None]


def test_inputs_that_the_encoder_cuts_are_warned_of_once(generate: Generate) -> None:
    def cutting(texts: Sequence[str]) -> LoraWeights:
        for text in texts[1:]:
            warnings.warn(f"the encoder read 2 tokens of {text}", T2LWarning, stacklevel=2)
        return generate(texts)

    with pytest.warns(T2LWarning) as caught:
        Hyperdecoder(cutting).adapters(["a", "b", "c"])
    assert len(caught) == 1
    assert str(caught[0].message).startswith("2 inputs are longer than the encoder reads")


def test_other_warnings_pass_and_without_any_there_is_none() -> None:
    with pytest.warns(UserWarning, match="odd"), warn_of_cuts_once("inputs"):
        warnings.warn("odd", UserWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with warn_of_cuts_once("inputs"):
            pass
