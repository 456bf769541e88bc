from __future__ import annotations

from pathlib import Path

import pytest

from text_to_lora.demo.show import demo_tasks, refine_task, show, show_refinement
from text_to_lora.generate import TextToLora
from text_to_lora.inference.answers import answer


@pytest.fixture(scope="module")
def t2l(hypernet_folder: Path) -> TextToLora:
    return TextToLora.from_pretrained(hypernet_folder)


def test_the_tasks_have_distinct_inputs_and_more_rows_than_are_shown() -> None:
    tasks = demo_tasks()
    assert len({task.description for task in tasks}) == len(tasks) >= 5
    for task in tasks:
        assert len({text for text, _ in task.rows}) == len(task.rows) >= 6


def test_drawn_rows_are_answered_by_the_base_and_by_the_adapter_of_their_task(
    t2l: TextToLora,
) -> None:
    tasks = demo_tasks()[:2]
    adapters = t2l.generate([task.description for task in tasks])
    draws = [show(t2l, tasks, adapters, rows_per_task=2, seed=seed) for seed in (5, 5, 6, 7)]
    assert draws[0] == draws[1] and draws[1:] != [draws[1]] * 3
    assert [row.description for row in draws[0]] == [
        task.description for task in tasks for _ in "ab"
    ]
    for row in draws[0]:
        place = [task.description for task in tasks].index(row.description)
        assert (row.input, row.expected) in tasks[place].rows
        options = {"weights": adapters.weights, "rows": [place], "max_new_tokens": 16}
        assert [row.adapted] == answer(*t2l.base, [row.input], **options)
        assert [row.base] == answer(*t2l.base, [row.input], max_new_tokens=16)


def test_the_task_that_is_refined_has_sixteen_rows_and_others_to_show() -> None:
    task, shown = refine_task()
    assert len(task.rows) == 16 and len(shown) == 6
    labels = {label for _, label in task.rows}
    assert labels == {label for _, label in shown}
    assert not any(label in task.description for label in labels)  # no sentence tells them
    assert not {text for text, _ in task.rows} & {text for text, _ in shown}


def test_answers_before_and_after_refining_come_with_the_record(idle_hypernet_folder: Path) -> None:
    t2l = TextToLora.from_pretrained(idle_hypernet_folder)
    result = show_refinement(t2l, seconds=None, steps=1)
    assert len(result.rows) == len(result.before) == len(result.after) == 6
    assert result.record["rows"] == 16 and result.record["steps_tried"] == 1
