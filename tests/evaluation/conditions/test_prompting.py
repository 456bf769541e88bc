"""Prompts without adapters: nothing, the definition, or examples that are never scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import Condition, Setup
from text_to_lora.evaluation.conditions.prompting import Base, InContext, InPrompt
from text_to_lora.tasks.task import Row, Task


def test_base_and_prompt_use_no_adapter(rows: list[Row]) -> None:
    assert Base().plan(rows) == [Setup()] * len(rows)
    assert InPrompt().plan(rows) == [Setup(description=row.task.definition) for row in rows]


def test_shots_are_support_rows_and_the_same_for_all_rows_of_a_task(
    tasks: list[Task], rows: list[Row]
) -> None:
    plan = InContext(shots=3, seed=1).plan(rows)
    scored = {(row.task.name, row.example.input) for row in rows}
    shots = {}
    for row, setup in zip(rows, plan, strict=True):
        assert setup is not None
        assert (setup.adapter, setup.description) == (None, None)
        assert len({shot.idx for shot in setup.shots}) == 3
        assert all(shot.idx % 10 < 5 and shot in row.task.examples for shot in setup.shots)
        assert not {(row.task.name, shot.input) for shot in setup.shots} & scored
        shots.setdefault(row.task.name, setup.shots)
        assert shots[row.task.name] == setup.shots
    assert shots.keys() == {task.name for task in tasks}


def test_the_seed_draws_the_shots(tasks: list[Task]) -> None:
    drawn = {InContext(seed=seed).draw(tasks[0]) for seed in range(8)}
    assert len(drawn) > 1
    assert InContext(seed=3).draw(tasks[0]) == InContext(seed=3).draw(tasks[0])


def test_a_task_with_few_support_rows_shows_what_it_has_and_without_any_is_left_out(
    make_task: Callable[..., Task],
) -> None:
    few, none = make_task("few", "Do.", rows=2), make_task("none", "Do.", rows=20)
    none = Task(none.name, "Do.", (), none.scored(), none.metric, split="dev")
    plan = InContext(shots=3).plan([Row(task, task.examples[0]) for task in (few, none)])
    assert plan[0] is not None and len(plan[0].shots) == 2
    assert plan[1] is None


def test_no_shots_are_refused() -> None:
    with pytest.raises(ConfigError, match="shots is 0; give at least 1, or leave 'icl' out"):
        InContext(shots=0)


class Plain(Condition):
    name = "own"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        return [Setup(description="Say it.") for _ in rows]


def test_a_plug_in_needs_a_name_and_a_plan_alone(base: PreTrainedModel) -> None:
    plain = Plain()
    assert plain.about == {}
    with plain.on(base) as model:
        assert model is base
    with pytest.raises(ConfigError, match="condition 'own' plans adapters but has none"):
        plain.adapters(["key"])
