from collections import Counter
from dataclasses import replace

import pytest

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.tasks.task import Example, Metric, Task


def make_task(name: str, *, source: str = "", rows: int = 20) -> Task:
    return Task(
        name=name,
        definition=f"Do {name}.",
        descriptions=(f"{name}!", f"{name}?"),
        examples=tuple(Example(f"{name} {i}", (f"{i}", f"{i}!"), i) for i in range(rows)),
        metric=Metric("exact_match"),
        source=source,
    )


REAL = [make_task(f"real{i}") for i in range(7)]
FAMILIES = [make_task(f"made{i}", source="family:made") for i in range(5)]


def make_sampler(**changes: object) -> TaskSampler:
    options = {"tasks_per_batch": 4, "examples_per_task": 3, "family_share": 0.3, "seed": 5}
    return TaskSampler(REAL + FAMILIES, **{**options, **changes})  # type: ignore[arg-type]


def test_a_batch_is_tasks_times_examples_with_rows_of_the_task() -> None:
    sampler = make_sampler()
    for step in range(20):
        batch = sampler.batch(step)
        assert all(n % 3 == 0 for n in Counter(row.task_index for row in batch).values())
        assert len(batch) == 12
        for row in batch:
            task = sampler.tasks[row.task_index]
            (example,) = (e for e in task.training() if e.input == row.input)
            assert row.output in example.outputs
            assert 0 <= row.description_index < len(task.descriptions)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.37, 0.5, 1.0])
def test_families_have_at_least_their_share_up_to_every_step(share: float) -> None:
    sampler, families = make_sampler(family_share=share), 0
    for step in range(60):
        drawn = sum(row.task_index >= len(REAL) for row in sampler.batch(step)) // 3
        families += drawn
        total = 4 * (step + 1)
        assert share * total <= families + 1e-9 < share * total + 1 + 1e-9


def test_tasks_come_without_replacement_within_an_epoch() -> None:
    sampler = make_sampler(family_share=0.5)
    real: list[int] = []
    for step in range(14):
        tasks = dict.fromkeys(row.task_index for row in sampler.batch(step))
        real += [index for index in tasks if index < len(REAL)]
    assert Counter(real) == {index: 4 for index in range(7)}


def test_every_description_and_output_is_drawn() -> None:
    rows = [row for step in range(80) for row in make_sampler().batch(step)]
    assert {row.description_index for row in rows} == {0, 1, 2}
    assert {row.output[-1] == "!" for row in rows} == {True, False}


def test_examples_repeat_only_where_a_task_has_too_few() -> None:
    batch = make_sampler(examples_per_task=18).batch(0)
    assert len({row.input for row in batch}) == len(batch)
    few = TaskSampler(
        [make_task("few", rows=2)], tasks_per_batch=1, examples_per_task=8, family_share=None
    )
    assert len(few.batch(0)) == 8


def test_tasks_without_rows_are_left_out_with_a_warning() -> None:
    task = make_task("held-out", rows=10)
    tasks = [*REAL, replace(task, examples=task.examples[9:])]
    with pytest.warns(T2LWarning, match="1 of 8 tasks have no training rows"):
        sampler = TaskSampler(tasks, tasks_per_batch=8, examples_per_task=1, family_share=0)
    assert 7 not in {row.task_index for row in sampler.batch(0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks_per_batch": 0}, "0 tasks × 3 examples"),
        ({"family_share": 1.5}, "family_share is 1.5"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sampler(**changes)


def test_a_share_without_families_or_without_other_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"family_share is 0.3, but no task is of a family"):
        TaskSampler(REAL, tasks_per_batch=1, examples_per_task=1)
    with pytest.raises(ConfigError, match="no task outside the families"):
        TaskSampler(FAMILIES, tasks_per_batch=1, examples_per_task=1)
