"""What each condition shows the model, and the properties of the derangements."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import (
    KINDS,
    Sources,
    derangements,
    group_of,
    plan_conditions,
)
from text_to_lora.library.library import AdapterLibrary, LibraryEntry
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Row, Task

Generate = Callable[[Sequence[str]], LoraWeights]


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
    permutations = derangements(tasks, seed=seed)
    assert len(permutations) == 3
    for donors in permutations:
        assert set(donors) == set(by_name)
        assert sorted(donors.values()) == sorted(by_name)
        for name, donor_name in donors.items():
            task, donor = by_name[name], by_name[donor_name]
            assert task is not donor
            assert group_of(task) != group_of(donor)
            folded = [{label.lower() for label in t.metric.labels} for t in (task, donor)]
            assert not folded[0] & folded[1]
    for name in by_name:
        assert len({donors[name] for donors in permutations}) == 3


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
    with pytest.raises(ConfigError, match=r"task '\w+' cannot be given .* leave out 'shuffled'"):
        derangements(tasks[:2], seed=0)


@pytest.fixture
def sources(
    draw: Callable[..., LoraWeights], generate: Generate, library: AdapterLibrary
) -> Sources:
    """Everything that any condition needs."""
    entries = [LibraryEntry(name) for name in ("poems", "birds")]
    return Sources(
        generate=generate,
        encode=load_encoder("hash").encode,
        multitask=draw(1, seed=9),
        multitask_in_prompt=draw(1, seed=10),
        library=library,
        hyperdecoder=generate,
        oracle=AdapterLibrary(draw(2, seed=4), entries),
    )


MEMBERS = {
    "paraphrase": ["paraphrase.1", "paraphrase.2"],
    "shuffled": ["shuffled.1", "shuffled.2", "shuffled.3"],
}
NAMES = [name for kind in KINDS for name in MEMBERS.get(kind, [kind])]


@pytest.fixture
def tasks(tasks: list[Task], make_task: Callable[..., Task]) -> list[Task]:
    """One more than elsewhere, so that there are three derangements."""
    return [*tasks, make_task("towns", "Guess towns.")]


@pytest.mark.parametrize("kinds", [None, list(reversed(KINDS))])
def test_plan_has_every_kind_in_order(
    tasks: list[Task], sources: Sources, kinds: list[str] | None
) -> None:
    plan = plan_conditions(kinds, replace(sources, tasks=tasks))
    assert [condition.name for condition in plan] == NAMES


def test_by_default_there_are_the_conditions_that_are_possible(
    tasks: list[Task], sources: Sources
) -> None:
    def names(**changes: Any) -> list[str]:
        return [b.name for b in plan_conditions(None, replace(sources, tasks=tasks, **changes))]

    bare = plan_conditions(None, Sources(tasks=tasks))
    assert [condition.name for condition in bare] == ["base", "in_prompt", "icl"]
    assert names(library=None) == [n for n in NAMES if n not in ("mean", "retrieval", "arrow")]
    assert names(encode=None) == [name for name in NAMES if name != "retrieval"]
    assert names(oracle=None) == NAMES[:-1]
    assert names(paraphrases=1) == [name for name in NAMES if name != "paraphrase.2"]


def test_descriptions_stand_in_the_prompt_of_conditions_of_that_name(
    tasks: list[Task], sources: Sources
) -> None:
    rows = [Row(task, example) for task in tasks for example in task.scored()[:2]]
    definitions = [row.task.definition for row in rows]
    for condition in plan_conditions(None, replace(sources, tasks=tasks)):
        if condition.name.endswith("in_prompt"):
            assert [setup and setup.description for setup in condition.plan(rows)] == definitions
        else:
            assert not any(setup and setup.description for setup in condition.plan(rows))


def test_shuffled_reads_the_definitions_of_the_derangements(
    tasks: list[Task], sources: Sources
) -> None:
    rows = [Row(task, example) for task in tasks for example in task.scored()[:2]]
    definitions = {task.name: task.definition for task in tasks}
    plan = plan_conditions(["shuffled"], replace(sources, tasks=tasks))
    for shuffled, donors in zip(plan, derangements(tasks, seed=0), strict=True):
        keys = [setup and setup.adapter for setup in shuffled.plan(rows)]
        assert keys == [definitions[donors[row.task.name]] for row in rows]


def test_too_few_tasks_to_shuffle_leave_it_out_with_a_warning(
    tasks: list[Task], sources: Sources
) -> None:
    with pytest.warns(T2LWarning, match="'shuffled' is left out: task 'poems' cannot be given"):
        plan = plan_conditions(None, replace(sources, tasks=tasks[:1]))
    assert [b.name for b in plan] == [name for name in NAMES if not name.startswith("shuffled")]
    with pytest.raises(ConfigError, match="cannot be given"):
        plan_conditions(["shuffled"], replace(sources, tasks=tasks[:1]))


@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("arrow", "a library of adapters; give --library"),
        ("mean", "a library of adapters; give --library"),
        ("retrieval", "a library of adapters; give --library"),
        ("multitask", "a multi-task adapter; give --multitask"),
        ("multitask_in_prompt", "a multi-task adapter that was trained with descriptions"),
        ("oracle", "a library of the tasks' own adapters; give --oracle"),
        ("hyperdecoder", "a hypernetwork for inputs; give --hyperdecoder"),
        ("junk", "a hypernetwork (--model"),
    ],
)
def test_a_condition_without_its_source_says_what_gives_it(
    tasks: list[Task], kind: str, needs: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"condition '{kind}' needs {needs}")):
        plan_conditions([kind], Sources(tasks=tasks))
