"""What each condition shows the model, and the properties of the derangements."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedModel

from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import (
    JUNK,
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


@pytest.fixture
def sources(
    base: PreTrainedModel, adapters: Callable[..., LoraWeights], generate: Callable[..., Generate]
) -> Sources:
    """Everything that any condition needs."""
    entries = [
        LibraryEntry(f"lib{place}", (f"{letter} {letter}",)) for place, letter in enumerate("abc")
    ]
    library = AdapterLibrary(adapters(base, 3), entries)
    own = [LibraryEntry(f"task{place}") for place in (0, 2)]
    return Sources(
        generate=generate(base),
        encode=load_encoder("hash").encode,
        multitask=adapters(base, 1, seed=9),
        multitask_in_prompt=adapters(base, 1, seed=10),
        library=library,
        hyperdecoder=generate(base),
        oracle=AdapterLibrary(adapters(base, 2, seed=4), own),
    )


NAMES = [
    "base",
    "in_prompt",
    "icl",
    "mean",
    "retrieval",
    "arrow",
    "multitask",
    "multitask_in_prompt",
    "hyperdecoder",
    "matched",
    "matched_in_prompt",
    "paraphrase.1",
    "paraphrase.2",
    "paraphrase.3",
    "shuffled.1",
    "shuffled.2",
    "shuffled.3",
    "junk",
    "oracle",
]


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

    assert [b.name for b in plan_conditions(None, Sources(tasks=tasks))] == [
        "base",
        "in_prompt",
        "icl",
    ]
    assert names(library=None) == [n for n in NAMES if n not in ("mean", "retrieval", "arrow")]
    assert names(encode=None) == [name for name in NAMES if name != "retrieval"]
    assert names(oracle=None) == NAMES[:-1]
    assert names(paraphrases=1) == [n for n in NAMES if n not in ("paraphrase.2", "paraphrase.3")]


def test_texts_are_those_of_the_condition(tasks: list[Task], sources: Sources) -> None:
    plan = {b.name: b for b in plan_conditions(None, replace(sources, tasks=tasks))}
    rows = [Row(task, example) for task in tasks for example in task.scored()[:2]]

    def keys(name: str) -> list[str | None]:
        return [None if s is None else s.adapter for s in plan[name].plan(rows)]

    definitions = {task.name: task.definition for task in tasks}
    for name in ("in_prompt", "multitask_in_prompt", "matched_in_prompt"):
        shown = [setup.description for setup in plan[name].plan(rows) if setup is not None]
        assert shown == [definitions[row.task.name] for row in rows]
    assert keys("matched_in_prompt") == keys("matched")
    assert keys("matched") == [definitions[row.task.name] for row in rows]
    for number, donors in enumerate(derangements(tasks, seed=0), start=1):
        assert keys(f"shuffled.{number}") == [definitions[donors[row.task.name]] for row in rows]
    assert keys("junk") == [JUNK[place % 2] for place in range(len(rows))]
    assert keys("hyperdecoder") == [row.example.input for row in rows]
    for number in (1, 2, 3):  # task number n has n descriptions beside its definition
        taken = [
            r.task.name for r, key in zip(rows, keys(f"paraphrase.{number}"), strict=True) if key
        ]
        assert list(dict.fromkeys(taken)) == [f"task{place}" for place in range(number, 6)]
    assert [key for key in dict.fromkeys(keys("oracle")) if key] == ["task0", "task2"]


def test_too_few_tasks_to_shuffle_leave_it_out_with_a_warning(
    tasks: list[Task], sources: Sources
) -> None:
    with pytest.warns(T2LWarning, match="'shuffled' is left out: task 'task0' cannot be given"):
        plan = plan_conditions(None, replace(sources, tasks=tasks[:1]))
    assert [b.name for b in plan] == [
        name for name in NAMES if not name.startswith(("shuffled", "paraphrase"))
    ]
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


def test_unknown_condition_is_named_with_the_nearest(tasks: list[Task]) -> None:
    message = "unknown condition 'oracel', nearest 'oracle'; choose among base, "
    with pytest.raises(ConfigError, match=message):
        plan_conditions(["oracel"], Sources(tasks=tasks))
