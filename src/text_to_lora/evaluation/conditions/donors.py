"""Which task is given the description of which other task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.task import Task
from text_to_lora.tasks.texts import normalize_answer

DERANGEMENTS = 3


def derangements(
    tasks: Sequence[Task], *, seed: int, count: int = DERANGEMENTS
) -> list[dict[str, str]]:
    """Give each task the name of another one, `count` times; equal tasks and seed give equal ones.

    Each is a permutation of the tasks. A donor is of another group, shares no label and no wording
    of the definition with its task, and is never given to the same task twice.

    Raises ConfigError when the tasks are too alike for that.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    ordered = sorted(tasks, key=lambda task: task.name)
    free = {
        task.name: {donor.name for donor in ordered if _unlike(task, donor)} for task in ordered
    }
    rng = numpy.random.default_rng([seed, count])
    names = [task.name for task in ordered]
    derangements: list[dict[str, str]] = []
    for _ in range(count):
        rows, columns = rng.permutation(len(names)), rng.permutation(len(names))
        allowed = numpy.array([[names[d] in free[names[t]] for d in columns] for t in rows])
        matches = maximum_bipartite_matching(csr_array(allowed), perm_type="column")
        if (matches < 0).any():
            name = names[rows[int((matches < 0).argmax())]]
            raise ConfigError(
                f"task {name!r} cannot be given the descriptions of {count} other tasks "
                f"of another group with other labels (of {len(ordered)} tasks, "
                f"{len(free[name])} are free); add tasks, or leave out 'shuffled'"
            )
        assigned = {names[t]: names[columns[m]] for t, m in zip(rows, matches, strict=True)}
        for task_name, donor in assigned.items():
            free[task_name].remove(donor)
        derangements.append(dict(sorted(assigned.items())))
    return derangements


def group_of(task: Task) -> str:
    """Give the group that the task is resampled with: its own, or itself without one."""
    return task.group or task.name


def _unlike(task: Task, donor: Task) -> bool:
    labels, others = (set(map(normalize_answer, t.metric.labels)) for t in (task, donor))
    return (
        group_of(task) != group_of(donor)
        and labels.isdisjoint(others)
        and normalize_answer(task.definition) != normalize_answer(donor.definition)
    )
