from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from text_to_lora.demo.show import Shown, demo_tasks, show
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.inference.answers import answer
from text_to_lora.models.base import load_base


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Any:
    return load_base(base_folder)


@pytest.fixture(scope="module")
def adapters(hypernet_folder: Path) -> Adapters:
    t2l = TextToLora.from_pretrained(hypernet_folder)
    return t2l.generate([task.description for task in demo_tasks()[:2]])


def test_the_tasks_have_distinct_inputs_and_more_rows_than_are_shown() -> None:
    tasks = demo_tasks()
    assert len({task.description for task in tasks}) == len(tasks) >= 5
    for task in tasks:
        assert len({text for text, _ in task.rows}) == len(task.rows) >= 6


def test_every_row_is_answered_by_the_base_and_by_the_adapter_of_its_task(
    base: Any, adapters: Adapters
) -> None:
    tasks = demo_tasks()[:2]
    shown = show(tasks, adapters, *base, rows_per_task=2, seed=5)
    assert [row.description for row in shown] == [task.description for task in tasks for _ in "ab"]
    for row in shown:
        place = [task.description for task in tasks].index(row.description)
        assert (row.input, row.expected) in tasks[place].rows
        alone = answer(
            *base, [row.input], weights=adapters.weights, rows=[place], max_new_tokens=16
        )
        assert [row.adapted] == alone
        assert [row.base] == answer(*base, [row.input], max_new_tokens=16)


def test_the_seed_draws_the_rows(base: Any, adapters: Adapters) -> None:
    def inputs(seed: int) -> list[str]:
        tasks = demo_tasks()[:2]
        return [row.input for row in show(tasks, adapters, *base, rows_per_task=2, seed=seed)]

    assert inputs(1) == inputs(1)
    assert len({tuple(inputs(seed)) for seed in range(4)}) > 1


def test_right_is_the_expected_answer_to_the_letter() -> None:
    row = Shown(
        "Write in capitals.", "two cups", expected="TWO CUPS", base="two cups", adapted="TWO CUPS"
    )
    assert (row.base_right, row.adapted_right) == (False, True)
