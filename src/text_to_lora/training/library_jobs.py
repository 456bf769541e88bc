"""The tasks of a library, and the rows that the adapter of each is trained on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from random import Random
from typing import Final

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.task import Example, Task
from text_to_lora.training.joint import Job
from text_to_lora.training.library_config import LibraryConfig
from text_to_lora.training.split import load_tasks, split_by_group

SELECTED_DIGIT: Final = {"training": 8, "support": 4}
"""Rows whose idx ends in this digit choose each task's best state and are not trained on; those of
9 (of a training task) and of 5 to 9 (of a held-out task) stay untouched for scores."""
MULTITASK: Final = "multitask"


def pick_tasks(config: LibraryConfig) -> list[Task]:
    """The tasks of a library, in its order; a smaller `count` gives the first of a larger one.

    Raises ConfigError for names that no task has, and when no task or too few are left.
    """
    data = config.data
    tasks, _ = split_by_group(load_tasks(data), data.validation_one_in)
    if data.names:
        by_name = {task.name: task for task in tasks}
        for name in data.names:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, n=1, cutoff=0)
                raise ConfigError(
                    f"data.names has {name!r}, which no task of the sources is named (or its group "
                    f"is left out by data.validation_one_in); nearest {near[0]!r}"
                )
        tasks = [by_name[name] for name in data.names]
    tasks = [
        task
        for task in sorted(tasks, key=lambda task: task.name)
        if len(task.descriptions) >= data.min_descriptions and _rows(task, selection=False)
    ]
    Random(f"{config.run.seed}/library").shuffle(tasks)
    if not tasks or len(tasks) < (data.count or 1):
        raise ConfigError(
            f"data.count is {data.count or 'all'}, but {len(tasks)} tasks have "
            f"data.min_descriptions={data.min_descriptions} and rows to train on; lower either"
        )
    return tasks[: data.count]


def make_job(task: Task, config: LibraryConfig) -> Job:
    """The rows of a task's adapter: whole shuffled passes, cut off at the limits of the run.

    They depend on the seed and the task alone, not on which other tasks there are.
    """
    run = config.run
    pool = _rows(task, selection=False, selected=config.data.eval_rows > 0)
    rng = Random(f"{run.seed}/rows/{task.name}")
    limit = min(run.rows, max(1, int(run.epochs * len(pool))))
    rows: list[tuple[str, str]] = []
    while len(rows) < limit:
        rows += [(e.input, rng.choice(e.outputs)) for e in rng.sample(pool, len(pool))]
    selection = _rows(task, selection=True)[: config.data.eval_rows]
    return Job(
        name=task.name,
        rows=rows[:limit],
        selection=[(example.input, example.outputs[0]) for example in selection],
        batch_size=run.batch_size,
        eval_every=run.eval_every,
    )


def multitask_job(tasks: Sequence[Task], config: LibraryConfig) -> Job:
    """The rows of all tasks' adapters, mixed, for one adapter."""
    run = config.run
    jobs = [make_job(task, config) for task in tasks]
    rows = [row for job in jobs for row in job.rows]
    Random(f"{run.seed}/rows/{MULTITASK}").shuffle(rows)
    # As many validations as a task has, each over a few rows of every task.
    validations = max(math.ceil(job.num_steps / job.eval_every) for job in jobs)
    steps = math.ceil(len(rows) / run.multitask_batch_size)
    few = math.ceil(config.data.eval_rows / 8)
    return Job(
        name=MULTITASK,
        rows=rows,
        selection=[row for job in jobs for row in job.selection[:few]],
        batch_size=run.multitask_batch_size,
        eval_every=math.ceil(steps / validations),
    )


def _rows(task: Task, *, selection: bool, selected: bool = True) -> tuple[Example, ...]:
    """The examples of a task that its adapter is trained on, or those that choose its state.

    selected: rows are set aside for that choice at all
    """
    kind = "training" if task.split == "train" else "support"
    pool = task.training() if kind == "training" else task.support()
    digit = SELECTED_DIGIT[kind]
    return tuple(e for e in pool if (selected and e.idx % 10 == digit) == selection)
