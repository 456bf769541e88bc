"""What the studies share: unseen tasks, and their likelihoods under conditions of the suite."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.lib import RESULTS
from text_to_lora.evaluation.conditions import (
    Condition,
    Setup,
    Sources,
    group_of,
    plan_conditions,
)
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.lora import LoraWeights
from text_to_lora.models.base import load_base
from text_to_lora.models.find import base_to_load
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Row, Task

Generate = Callable[[Sequence[str]], LoraWeights]
Means = dict[str, float]
"""Mean answer NLL of each task, nats a token."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every experiment has."""
    arguments = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    add = arguments.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--split", default="dev_heldout", help="of unseen tasks that are scored")
    add("--rows", type=int, default=16, help="rows an unseen task (default 16)")
    add("--row-seed", type=int, default=0, help="of rows and derangements")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--device", default="cpu", help="of the base (default cpu)")
    add("--out", type=Path, default=RESULTS, help="folder of the cells")
    return arguments


class Texts(Condition):
    """The adapters of given texts, which the rows of a task take in turn; others are left out.

    texts: of each task by name
    """

    def __init__(self, name: str, generate: Generate, texts: Mapping[str, Sequence[str]]) -> None:
        self._name, self._generate, self._texts = name, generate, texts

    @property
    def name(self) -> str:
        """See Condition.name."""
        return self._name

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """See Condition.plan."""
        turns: dict[str, int] = {}
        setups: list[Setup | None] = []
        for row in rows:
            texts, turn = self._texts.get(row.task.name, ()), turns.get(row.task.name, 0)
            setups.append(Setup(adapter=texts[turn % len(texts)]) if texts else None)
            turns[row.task.name] = turn + 1
        return setups

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the texts."""
        return self._generate(keys)


@dataclass(frozen=True)
class Judge:
    """Unseen tasks and one base model, each read when first needed.

    base_name: as `load_base` takes it
    seen: tasks of training in place of the unseen ones, on rows that are not trained on
    """

    options: argparse.Namespace
    base_name: str
    seen: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        torch.set_num_threads(self.options.threads)

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that are scored."""
        if self.seen:
            return list(self.seen)
        return load_data_dir(self.options.data, self.options.split)

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base model and its tokenizer."""
        return load_base(base_to_load(self.base_name), device=self.options.device)

    @cached_property
    def bootstrap(self) -> GroupBootstrap:
        """Over the source groups of the tasks."""
        return GroupBootstrap({task.name: group_of(task) for task in self.tasks})

    def plan(self, kinds: Sequence[str], generate: Generate | None = None) -> list[Condition]:
        """Conditions of these kinds, with the adapters of one hypernetwork."""
        seed = self.options.row_seed
        sources = Sources(self.tasks, seed, generate, hyperdecoder=generate)
        return plan_conditions(kinds, sources)

    def nll(self, conditions: Sequence[Condition]) -> dict[str, Means]:
        """Likelihoods under conditions, by their names; derangements are one condition.

        Of unseen tasks rows with idx % 10 >= 5 are scored, of seen ones those with 9; every call
        scores the same rows.
        """
        base, tokenizer = self.base
        with TemporaryDirectory() as folder:
            report = evaluate_suite(
                base=base,
                tokenizer=tokenizer,
                tasks=self.tasks,
                conditions=conditions,
                output_dir=folder,
                rows_per_task=self.options.rows,
                seed=self.options.row_seed,
                examples=Task.validation if self.seen else Task.scored,
                max_new_tokens=0,
                label_likelihood=False,
            )
        return {
            name: {
                task: nll
                for task, facts in report["tasks"].items()
                if (nll := facts["conditions"][name]["nll"]) is not None
            }
            for name in report["conditions"]
        }

    def difference(self, first: Means, second: Means) -> dict[str, Any]:
        """Paired difference first - second, with its interval."""
        values = {name: first[name] - second[name] for name in first if name in second}
        interval = self.bootstrap.mean(values)
        return interval.to_dict() | {
            "clear_of_zero": interval.clear_of_zero,
            "tasks": len(values),
            "tasks_lower": sum(value < 0 for value in values.values()),
        }

    def mean(self, means: Means) -> dict[str, Any]:
        """Mean over source groups, with its interval."""
        return self.bootstrap.mean(means).to_dict()

    def identity(self) -> dict[str, Any]:
        """What decides the rows."""
        return {
            "split": self.options.split,
            "rows_per_task": self.options.rows,
            "row_seed": self.options.row_seed,
        }
