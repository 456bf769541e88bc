"""An adapter for each input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import pytest

from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.conditions import Hyperdecoder
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row, Task

Generate = Callable[[Sequence[str]], LoraWeights]


def test_each_row_has_the_adapter_of_its_own_input(
    rows: list[Row], generate: Generate, same: Callable[[LoraWeights, LoraWeights], bool]
) -> None:
    decoder = Hyperdecoder(generate, {"trained_on": "input"})
    assert decoder.about == {"trained_on": "input"}
    keys = [setup.adapter for setup in decoder.plan(rows) if setup is not None]
    assert len(set(keys)) == len(rows) == 30
    weights = decoder.adapters([key for key in keys if key is not None])
    for row, adapter in zip(rows, weights.unbind(), strict=True):
        assert same(adapter, generate([row.example.input]))


def test_rows_with_a_blank_input_are_left_out(tasks: list[Task], generate: Generate) -> None:
    rows = [Row(tasks[0], Example(text, ("y",), 5)) for text in ("  \n", "x")]
    plan = Hyperdecoder(generate).plan(rows)
    assert plan[0] is None and plan[1] is not None


def test_inputs_that_the_encoder_cuts_are_warned_of_once(generate: Generate) -> None:
    def cutting(texts: Sequence[str]) -> LoraWeights:
        for text in texts[1:]:
            warnings.warn(f"the encoder read 2 tokens of {text}", T2LWarning, stacklevel=2)
        return generate(texts)

    with pytest.warns(T2LWarning) as caught:
        Hyperdecoder(cutting).adapters(["a", "b", "c"])
    assert len(caught) == 1
    assert str(caught[0].message).startswith("2 inputs are longer than the encoder reads")
