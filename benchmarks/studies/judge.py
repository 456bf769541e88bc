"""What the studies share: tasks, and their likelihoods under conditions of the suite."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.lib import RESULTS, parse
from text_to_lora.evaluation.conditions import Condition, Setup, Sources, group_of, plan_conditions
from text_to_lora.evaluation.conditions.described import Described
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
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
    arguments = parse(doc, "", threads=1)
    arguments.set_defaults(out=RESULTS)
    add = arguments.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--split", default="dev_heldout", help="of unseen tasks that are scored")
    add("--rows", type=int, default=16, help="rows an unseen task (default 16)")
    add("--row-seed", type=int, default=0, help="of rows and derangements")
    add("--device", default="cpu", help="of the base (default cpu)")
    return arguments


def difference(first: Means, second: Means, bootstrap: GroupBootstrap) -> Interval:
    """Mean over groups of first - second on the tasks that both have.

    Raises ConfigError when there is none.
    """
    return bootstrap.mean({name: first[name] - second[name] for name in first if name in second})


class Texts(Described):
    """The adapters of given texts, which the rows of a task take in turn; others are left out.

    texts: of each task by name
    """

    def __init__(self, name: str, generate: Generate, texts: Mapping[str, Sequence[str]]) -> None:
        super().__init__(generate)
        self._name, self._texts = name, texts

    @property
    def name(self) -> str:
        """See Condition.name."""
        return self._name

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """See Condition.plan."""
        turns: Counter[str] = Counter()
        setups: list[Setup | None] = []
        for name in (row.task.name for row in rows):
            texts = self._texts.get(name, ())
            setups.append(Setup(adapter=texts[turns[name] % len(texts)]) if texts else None)
            turns[name] += 1
        return setups


class Judge:
    """Tasks and one base model, which is read when first needed.

    base_name: as `load_base` takes it
    seen: tasks of training in place of the unseen ones, on rows that are not trained on
    """

    def __init__(
        self, options: argparse.Namespace, base_name: str, seen: Sequence[Task] = ()
    ) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.base_name, self.seen = options, base_name, bool(seen)
        self.tasks = list(seen) or load_data_dir(options.data, options.split)
        self.bootstrap = GroupBootstrap({task.name: group_of(task) for task in self.tasks})

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base model and its tokenizer."""
        return load_base(base_to_load(self.base_name), device=self.options.device)

    def plan(self, kinds: Sequence[str], generate: Generate | None = None) -> list[Condition]:
        """Conditions of these kinds, with the adapters of one hypernetwork."""
        return plan_conditions(kinds, Sources(self.tasks, self.options.row_seed, generate))

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

    def identity(self) -> dict[str, Any]:
        """What decides the rows."""
        options = self.options
        return {"split": options.split, "rows_per_task": options.rows, "row_seed": options.row_seed}
