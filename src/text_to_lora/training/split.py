"""The tasks of a run: read from all their sources, then split into training and validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.families import families
from text_to_lora.tasks.folder import load_data_dir, load_folder
from text_to_lora.tasks.hub import load_lots_of_loras, load_sni
from text_to_lora.tasks.task import Task
from text_to_lora.training.config import DataSection, SourcesSection


def split_by_group(tasks: Sequence[Task], one_in: int = 16) -> tuple[list[Task], list[Task]]:
    """Split tasks into (trained on, held out) by whole source groups.

    one_in: about one group in this many is held out, by hash of its name, so that it does not
        depend on which other tasks there are; 0 holds none out
    """

    def is_held_out(task: Task) -> bool:
        return one_in > 0 and int(sha256(task.group.encode()).hexdigest(), 16) % one_in == 0

    training = [task for task in tasks if not is_held_out(task)]
    return training, [task for task in tasks if is_held_out(task)]


def load_tasks(data: SourcesSection) -> list[Task]:
    """Read the tasks of all sources of a configuration.

    Raises ConfigError when it names none or two tasks share a name, and what the loaders raise.
    """
    tasks: list[Task] = []
    if data.data_dir is not None:
        tasks += load_data_dir(data.data_dir, data.split)
    for folder in data.folders:
        tasks += load_folder(folder)
    if data.sni is not None:
        tasks += load_sni(data.sni)
    tasks += [load_lots_of_loras(name) for name in data.hub]
    if not tasks:
        raise ConfigError("no tasks; set data.data_dir, data.folders, data.sni or data.hub")
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise ConfigError(f"two tasks are named {task.name!r}; leave one out of the sources")
        seen.add(task.name)
    return tasks


@dataclass(frozen=True)
class TaskSplit:
    """The tasks of a run.

    training: tasks and families to train on; evaluation: tasks of each validation set, by name
    """

    training: tuple[Task, ...]
    evaluation: dict[str, tuple[Task, ...]]

    @classmethod
    def make(cls, tasks: Sequence[Task], data: DataSection) -> TaskSplit:
        """Hold source groups out, make the families, and shorten the lists of descriptions.

        Validation sets are "seen_tasks" (held-out rows of training tasks), "unseen_tasks" (groups
        held out) and "unseen_families" (families held out, over held-out rows); empty ones are
        left out.

        Raises ConfigError when nothing is left to train on, or less than `data.count` tasks.
        """
        training, held_out = split_by_group(tasks, data.validation_one_in)
        if not training:
            raise ConfigError(
                f"all {len(tasks)} tasks are set aside by data.validation_one_in="
                f"{data.validation_one_in}; set it to 0 or add tasks"
            )
        training = _choose_tasks(training, data.count, data.min_descriptions)

        def synthetic(split: Literal["train", "validation"], count: int) -> list[Task]:
            if not count:
                return []
            return families(
                training,
                seed=data.family_seed,
                split=split,
                num_tasks=count,
                word_share=data.family_word_share,
            )

        validated = data.eval_rows > 0 and data.family_tasks > 0
        unseen = synthetic("validation", data.validation_family_tasks if validated else 0)
        training_families = synthetic("train", data.family_tasks)
        evaluation = {"seen_tasks": training, "unseen_tasks": held_out, "unseen_families": unseen}
        return cls(
            training=_shorten([*training, *training_families], data.descriptions_per_task),
            evaluation={
                name: _shorten(part, data.descriptions_per_task)
                for name, part in evaluation.items()
                if part and data.eval_rows
            },
        )


def _choose_tasks(tasks: Sequence[Task], count: int | None, min_descriptions: int) -> list[Task]:
    """The tasks that have enough descriptions, as many as are asked for."""
    enough = [task for task in tasks if len(task.descriptions) >= min_descriptions]
    if len(enough) < (count or 1):
        raise ConfigError(
            f"data.count is {count or 'all'}, but {len(enough)} tasks have "
            f"data.min_descriptions={min_descriptions}; lower either"
        )
    by_hash = sorted(enough, key=lambda task: sha256(task.name.encode()).digest())
    names = {task.name for task in by_hash[:count]}
    return [task for task in enough if task.name in names]


def _shorten(tasks: Iterable[Task], count: int | None) -> tuple[Task, ...]:
    return tuple(replace(task, descriptions=task.descriptions[:count]) for task in tasks)
