"""What a plug-in inherits, and taking turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import Condition, Setup
from text_to_lora.evaluation.conditions.condition import in_turn
from text_to_lora.tasks.task import Row


class Own(Condition):
    name = "own"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        return [Setup(description="Say it.") for _ in rows]


def test_a_plug_in_needs_a_name_and_a_plan_alone(base: PreTrainedModel, rows: list[Row]) -> None:
    own = Own()
    assert own.about == {}
    assert own.plan(rows[:2]) == [Setup(None, "Say it.", ())] * 2
    with own.on(base) as model:
        assert model is base
    with pytest.raises(ConfigError, match="condition 'own' plans adapters but has none"):
        own.adapters(["key"])


def test_rows_of_each_task_take_its_texts_in_turn(rows: list[Row]) -> None:
    chosen = in_turn(rows, {"poems": ("a", "b", "c"), "birds": ("d",)})
    poems = [text for row, text in zip(rows, chosen, strict=True) if row.task.name == "poems"]
    assert poems == ["a", "b", "c"] * 3 + ["a"]
    assert {text for row, text in zip(rows, chosen, strict=True) if row.task.name == "birds"} == {
        "d"
    }
    assert {text for row, text in zip(rows, chosen, strict=True) if row.task.name == "coins"} == {
        None
    }
