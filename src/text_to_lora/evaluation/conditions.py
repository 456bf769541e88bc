"""What an adapter is compared under: base, prompt, multi-task adapter, matched, shuffled, junk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.metrics import normalise
from text_to_lora.tasks.task import Task

Kind = Literal["base", "in_prompt", "multitask", "matched", "paraphrase", "shuffled", "junk"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PARAPHRASES = 3
DERANGEMENTS = 3

JUNK: tuple[str, ...] = (
    "dogs;cats;bananas;",
    "asjdkf;lkj asdlkfj qwpoeiru zxmcnv;alskdjf",
    "gggggggggggggggggggggggggggggg",
    "window seven under quickly marble the paint of eleven soup nor lamp drift",
    "of blue tomorrow chairs sing, because the bread was north and a spoon of gravel",
)
"""Descriptions that describe nothing.

The first three are of the kinds in the paper's alignment test (its keyboard mash is not published),
the others word salad. Source: Text-to-LoRA (arXiv 2506.06105), Table 5.
"""


@dataclass(frozen=True)
class Condition:
    """One way of answering the rows of tasks.

    name: kind, with ".1" and so on where a kind has several conditions; names the parquet file
    adapter_texts: per task, the descriptions whose adapters its rows take in turn; empty: none
    prompt_texts: per task, the description in the prompt; empty: none

    Only tasks that the non-empty one of the two names are scored; both empty: every task.
    """

    name: str
    kind: Kind
    adapter_texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompt_texts: Mapping[str, str] = field(default_factory=dict)

    def takes(self, task: Task) -> bool:
        """Tell whether the task is scored under this condition."""
        named = self.adapter_texts or self.prompt_texts
        return not named or task.name in named


def plan_conditions(kinds: Sequence[str], tasks: Sequence[Task], *, seed: int) -> list[Condition]:
    """Lay out the conditions of these kinds, in the order of KINDS.

    matched: the task's definition; paraphrase.1 to .3: its next three descriptions (tasks that have
    them); shuffled.1 to .3: definitions of other tasks, by three derangements; junk: the texts of
    JUNK, which the rows of each task take in turn.

    Raises ConfigError for an unknown kind, or when no derangement exists.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown condition {kind!r}; choose among {', '.join(KINDS)}")
    definitions = {task.name: task.definition for task in tasks}
    plan: list[Condition] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        if kind in ("base", "multitask"):
            plan.append(Condition(kind, kind))
        elif kind == "in_prompt":
            plan.append(Condition(kind, kind, prompt_texts=definitions))
        elif kind == "matched":
            texts = {name: (text,) for name, text in definitions.items()}
            plan.append(Condition(kind, kind, texts))
        elif kind == "paraphrase":
            for place in range(1, PARAPHRASES + 1):
                texts = {
                    task.name: (task.descriptions[place],)
                    for task in tasks
                    if len(task.descriptions) > place
                }
                if texts:
                    plan.append(Condition(f"{kind}.{place}", kind, texts))
        elif kind == "shuffled":
            for place, donors in enumerate(derangements(tasks, seed=seed), start=1):
                texts = {name: (definitions[donor],) for name, donor in donors.items()}
                plan.append(Condition(f"{kind}.{place}", kind, texts))
        else:
            plan.append(Condition(kind, kind, {task.name: JUNK for task in tasks}))
    return plan


def derangements(
    tasks: Sequence[Task], *, seed: int, count: int = DERANGEMENTS
) -> list[dict[str, str]]:
    """Give each task the name of another one, `count` times; equal tasks and seed give equal ones.

    Each is a permutation of the tasks. A donor is of another group, shares no label and no wording
    of the definition with its task, and is never given to the same task twice.

    Raises ConfigError when the tasks are too alike for that.
    """
    ordered = sorted(tasks, key=lambda task: task.name)
    free = {
        task.name: [donor.name for donor in ordered if _unlike(task, donor)] for task in ordered
    }
    rng = Random(f"derangements/{seed}")
    found: list[dict[str, str]] = []
    for _ in range(count):
        taken: dict[str, str] = {}  # donor -> task
        for task in rng.sample(ordered, len(ordered)):
            choices = {name: rng.sample(donors, len(donors)) for name, donors in free.items()}
            if not _assign(task.name, choices, taken, set()):
                raise ConfigError(
                    f"task {task.name!r} cannot be given the descriptions of {count} other tasks "
                    f"of another group with other labels (of {len(ordered)} tasks, "
                    f"{len(free[task.name])} are free); add tasks, or leave out 'shuffled'"
                )
        assigned = {task: donor for donor, task in sorted(taken.items())}
        for task_name, donor in assigned.items():
            free[task_name].remove(donor)
        found.append(assigned)
    return found


def group_of(task: Task) -> str:
    """Give the group that the task is resampled with: its own, or itself without one."""
    return task.group or task.name


def _unlike(task: Task, donor: Task) -> bool:
    labels, others = (set(map(normalise, t.metric.labels)) for t in (task, donor))
    return (
        group_of(task) != group_of(donor)
        and labels.isdisjoint(others)
        and normalise(task.definition) != normalise(donor.definition)
    )


def _assign(
    task: str, choices: Mapping[str, Sequence[str]], taken: dict[str, str], tried: set[str]
) -> bool:
    """Find a free donor for a task, moving others (an augmenting path, Kuhn 1955)."""
    for donor in choices[task]:
        if donor not in tried:
            tried.add(donor)
            if donor not in taken or _assign(taken[donor], choices, taken, tried):
                taken[donor] = task
                return True
    return False
