"""What each condition shows the model, and the properties of the derangements."""

from __future__ import annotations

import random

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import JUNK, KINDS, derangements, group_of, plan_conditions
from text_to_lora.tasks.task import Example, Metric, Task


def many_tasks() -> list[Task]:
    """38 tasks like the held-out ones: some share a group, some share labels."""
    labels = [("Yes", "No"), ("no", "yes"), ("A", "B", "C"), ("A", "B"), ("true", "false"), ()]
    return [
        Task(
            f"task{place:02}",
            f"Do thing {place}.",
            (),
            (Example("x", ("y",), 5),),
            Metric("classification", labels[place % 6])
            if labels[place % 6]
            else Metric("exact_match"),
            group=f"group{place // 2}" if place < 10 else "",
        )
        for place in range(38)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_donors_are_of_another_group_with_other_labels(seed: int) -> None:
    tasks = many_tasks()
    by_name = {task.name: task for task in tasks}
    found = derangements(tasks, seed=seed)
    assert len(found) == 3
    for donors in found:
        assert set(donors) == set(by_name)
        assert sorted(donors.values()) == sorted(by_name)
        for name, donor_name in donors.items():
            task, donor = by_name[name], by_name[donor_name]
            assert task is not donor
            assert group_of(task) != group_of(donor)
            folded = [{label.lower() for label in t.metric.labels} for t in (task, donor)]
            assert not folded[0] & folded[1]
    for name in by_name:
        assert len({donors[name] for donors in found}) == 3


def test_derangements_depend_on_the_seed_alone() -> None:
    tasks = many_tasks()
    shuffled = random.Random(1).sample(tasks, len(tasks))
    assert derangements(tasks, seed=4) == derangements(shuffled, seed=4)
    assert derangements(tasks, seed=4) != derangements(tasks, seed=5)


def test_tasks_with_one_definition_do_not_donate_to_each_other() -> None:
    tasks = [
        Task(f"t{place}", text, (), (Example("x", ("y",), 5),), Metric("exact_match"))
        for place, text in enumerate(["same.", "Same", "other", "third"])
    ]
    for donors in derangements(tasks, seed=0, count=2):
        assert donors["t0"] in ("t2", "t3")


def test_tasks_that_are_too_alike_are_named(tasks: list[Task]) -> None:
    with pytest.raises(ConfigError, match=r"task 'task\d' cannot be given .* leave out 'shuffled'"):
        derangements(tasks[:2], seed=0)


def test_plan_has_every_kind_in_order(tasks: list[Task]) -> None:
    plan = plan_conditions(list(reversed(KINDS)), tasks, seed=0)
    assert [condition.name for condition in plan] == [
        "base",
        "in_prompt",
        "multitask",
        "matched",
        "paraphrase.1",
        "paraphrase.2",
        "paraphrase.3",
        "shuffled.1",
        "shuffled.2",
        "shuffled.3",
        "junk",
    ]


def test_texts_are_those_of_the_condition(tasks: list[Task]) -> None:
    plan = {condition.name: condition for condition in plan_conditions(KINDS, tasks, seed=0)}
    definitions = {task.name: task.definition for task in tasks}
    assert not plan["base"].adapter_texts and not plan["base"].prompt_texts
    assert plan["in_prompt"].prompt_texts == definitions
    assert not plan["in_prompt"].adapter_texts
    assert plan["matched"].adapter_texts == {name: (t,) for name, t in definitions.items()}
    for number, donors in enumerate(derangements(tasks, seed=0), start=1):
        texts = plan[f"shuffled.{number}"].adapter_texts
        assert texts == {name: (definitions[donor],) for name, donor in donors.items()}
    assert set(plan["junk"].adapter_texts.values()) == {JUNK}


def test_tasks_with_few_descriptions_have_fewer_paraphrases(tasks: list[Task]) -> None:
    plan = {c.name: c for c in plan_conditions(["base", "paraphrase"], tasks, seed=0)}
    # task number n has n descriptions beside its definition
    for number in (1, 2, 3):
        taken = [task.name for task in tasks if plan[f"paraphrase.{number}"].takes(task)]
        assert taken == [f"task{place}" for place in range(number, 6)]
    assert plan["paraphrase.2"].adapter_texts["task4"] == (tasks[4].descriptions[2],)
    assert all(plan["base"].takes(task) for task in tasks)
    assert plan_conditions(["paraphrase"], tasks[:1], seed=0) == []


def test_unknown_condition_is_named(tasks: list[Task]) -> None:
    with pytest.raises(ConfigError, match="unknown condition 'oracle'; choose among base, "):
        plan_conditions(["oracle"], tasks, seed=0)
