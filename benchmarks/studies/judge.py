"""What the studies share: rows of unseen tasks, and their likelihoods under adapters of texts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import RESULTS
from text_to_lora.evaluation.conditions import JUNK, derangements, group_of
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.lora import LoraWeights
from text_to_lora.models.base import load_base
from text_to_lora.models.find import base_to_load
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task

Generate = Callable[[Sequence[str]], LoraWeights]
Means = dict[str, float]
"""Mean answer NLL of each task, nats a token."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every experiment has."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="folder of task collections")
    made.add_argument("--split", default="dev_heldout", help="of unseen tasks that are scored")
    made.add_argument("--rows", type=int, default=16, help="rows an unseen task (default 16)")
    made.add_argument("--row-seed", type=int, default=0, help="of rows and derangements")
    made.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    made.add_argument("--device", default="cpu", help="of the base (default cpu)")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the cells")
    return made


@dataclass(frozen=True)
class Judge:
    """Unseen tasks, their rows and one base model; each read when first needed.

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
    def rows(self) -> list[Row]:
        """Rows that are scored, the same for every cell (idx % 10 >= 5; of seen tasks 9)."""
        return choose_rows(
            self.tasks,
            rows_per_task=self.options.rows,
            seed=self.options.row_seed,
            examples=Task.validation if self.seen else Task.scored,
        )

    @cached_property
    def scorer(self) -> Scorer:
        """Likelihoods alone."""
        name = base_to_load(self.base_name)
        base, tokenizer = load_base(name, device=self.options.device)
        return Scorer(base, tokenizer, max_new_tokens=0)

    @cached_property
    def bootstrap(self) -> GroupBootstrap:
        """Over the source groups of the tasks."""
        return GroupBootstrap({task.name: group_of(task) for task in self.tasks})

    def told(self) -> Means:
        """Likelihoods of the base with each task's definition in the prompt."""
        answers = self.scorer.score(self.rows, prompt_texts=[r.task.definition for r in self.rows])
        return self._means([answer.nll for answer in answers])

    def untold(self, weights: LoraWeights | None = None) -> Means:
        """Likelihoods of the base without a description, alone or under one adapter."""
        return self._means([answer.nll for answer in self.scorer.score(self.rows, weights=weights)])

    def described(
        self,
        generate: Generate,
        texts: Mapping[str, Sequence[str]],
        *,
        in_prompt: bool = False,
    ) -> Means:
        """Likelihoods under the adapters of texts, which the rows of a task take in turn.

        in_prompt: the task's own definition stands in the prompt as well
        """
        turns: dict[str, int] = {}
        read = []
        for row in self.rows:
            own, turn = texts[row.task.name], turns.get(row.task.name, 0)
            read.append(own[turn % len(own)])
            turns[row.task.name] = turn + 1
        return self.generated(generate, read, in_prompt=in_prompt)

    def generated(
        self, generate: Generate, read: Sequence[str], *, in_prompt: bool = False
    ) -> Means:
        """Likelihoods under the adapters of one text a row."""
        distinct = list(dict.fromkeys(read))
        values: list[float] = [0.0] * len(read)
        for start in range(0, len(distinct), 128):  # of one adapter a row, not all fit in memory
            part = {text: place for place, text in enumerate(distinct[start : start + 128])}
            chosen = [place for place, text in enumerate(read) if text in part]
            with torch.no_grad():
                weights = generate(list(part)).detach()
            answers = self.scorer.score(
                [self.rows[place] for place in chosen],
                weights=weights,
                adapters=[part[read[place]] for place in chosen],
                prompt_texts=(
                    [self.rows[place].task.definition for place in chosen] if in_prompt else None
                ),
            )
            for place, answer in zip(chosen, answers, strict=True):
                values[place] = answer.nll
        return self._means(values)

    def controls(self, generate: Generate, *, in_prompt: bool = False) -> dict[str, Means]:
        """Matched, shuffled (mean of three derangements) and junk."""
        definitions = {task.name: task.definition for task in self.tasks}
        own = {name: [text] for name, text in definitions.items()}
        shuffled = [
            self.described(
                generate,
                {name: [definitions[d]] for name, d in donors.items()},
                in_prompt=in_prompt,
            )
            for donors in derangements(self.tasks, seed=self.options.row_seed)
        ]
        return {
            "matched": self.described(generate, own, in_prompt=in_prompt),
            "shuffled": {
                name: sum(means[name] for means in shuffled) / len(shuffled) for name in own
            },
            "junk": self.described(generate, dict.fromkeys(own, JUNK), in_prompt=in_prompt),
        }

    def _means(self, values: Sequence[float]) -> Means:
        rows: dict[str, list[float]] = {}
        for row, value in zip(self.rows, values, strict=True):
            rows.setdefault(row.task.name, []).append(value)
        return {name: sum(found) / len(found) for name, found in rows.items()}

    def difference(self, first: Means, second: Means) -> dict[str, Any]:
        """Paired difference first - second, with its interval."""
        tasks = [name for name in first if name in second]
        values = {name: first[name] - second[name] for name in tasks}
        interval = self.bootstrap.mean(values)
        return interval.to_dict() | {
            "clear_of_zero": interval.clear_of_zero,
            "tasks": len(tasks),
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
