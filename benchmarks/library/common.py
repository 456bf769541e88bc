"""What the experiments on a library share: arguments, rows, scores, cells that are made once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.adapters import AdapterReport, TaskScores, score_adapters
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.lora import LoraWeights
from text_to_lora.lora.library import AdapterLibrary, load_library
from text_to_lora.models.base import load_base
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task

sys.path.append(str(Path(__file__).parents[1]))  # scripts beside this folder
from recorded import make_cell

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "library"
PLOTS = ROOT / "docs" / "plots"
WORK = ROOT / "runs" / "library-experiments"
EMBEDDINGS = "embeddings"  # folder below the work folder that keeps those of descriptions

HEADS = {"L": "joint", "M": "shared", "S": "rank"}


def parser(doc: str | None, experiment: str, *, rows: int) -> argparse.ArgumentParser:
    """Arguments that every experiment has.

    rows: default number of rows scored a task
    """
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--library", type=Path, required=True, help="folder of the library")
    made.add_argument("--data", type=Path, required=True, help="folder of task collections")
    made.add_argument("--split", default="train", help="split of the library's tasks")
    made.add_argument("--base", help="base model; default: the one that the library names")
    made.add_argument("--rows", type=int, default=rows, help=f"rows a task (default {rows})")
    made.add_argument("--seed", type=int, default=0, help="of rows, training and resamples")
    made.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    made.add_argument("--out", type=Path, default=RESULTS / experiment, help="folder of the cells")
    return made


def add_cells(arguments: argparse.ArgumentParser) -> None:
    """An argument that picks cells; None is all of them."""
    arguments.add_argument(
        "--cells", type=lambda text: text.split(","), help="names with commas; default: all"
    )


@dataclass(frozen=True)
class Experiment:
    """One library, its tasks, rows and base, as the arguments say; each read when first needed."""

    options: argparse.Namespace

    def __post_init__(self) -> None:
        torch.set_num_threads(self.options.threads)

    @cached_property
    def library(self) -> AdapterLibrary:
        """The library, every hash checked."""
        return load_library(self.options.library)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks of the data folder by name."""
        split = load_data_dir(self.options.data, self.options.split)
        return {task.name: task for task in split}

    @cached_property
    def base(self) -> tuple[Any, Any]:
        """The base model and its tokenizer."""
        spec = self.library.spec
        return load_base(self.options.base, spec=spec)

    @cached_property
    def scorer(self) -> Scorer:
        """Of the base."""
        return Scorer(*self.base)

    def named(self, names: Sequence[str]) -> list[Task]:
        """Tasks by name, each in the library and in the data.

        Raises ConfigError naming one that is not.
        """
        for name in names:
            self.library.entry(name)
            if name not in self.tasks:
                raise ConfigError(
                    f"task {name!r} of the library is not in split {self.options.split!r} of "
                    f"{str(self.options.data)!r}; give the data that the library was trained on"
                )
        return [self.tasks[name] for name in names]

    def rows(self, names: Sequence[str]) -> list[Row]:
        """Held-out rows (idx % 10 == 9) of tasks."""
        return choose_rows(
            self.named(names),
            rows_per_task=self.options.rows,
            seed=self.options.seed,
            examples=Task.validation,
        )

    def report(self, names: Sequence[str]) -> AdapterReport:
        """Intervals over the source groups of tasks."""
        return AdapterReport(self.named(names), seed=self.options.seed)

    def score(self, names: Sequence[str], weights: LoraWeights | None = None) -> TaskScores:
        """Score tasks with the base, one adapter for all, or one adapter for each."""
        each = weights is not None and weights.num_adapters > 1
        return score_adapters(self.scorer, self.rows(names), weights, tasks=names if each else None)

    def cell(
        self, name: str, make: Callable[[], dict[str, Any]], **settings: Any
    ) -> dict[str, Any]:
        """A cell from its file, or made and written down with what it depends on.

        settings: of this cell, as JSON values

        Raises ConfigError when the file is of another library or of other settings.
        """
        return make_cell(
            self.options.out / f"{name}.json",
            make,
            identity=self._identity() | settings,
            threads=self.options.threads,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "library": {
                "fingerprint": self.library.fingerprint,
                "adapters": len(self.library),
                "base": self.library.spec.base.name,
                "rank": self.library.spec.rank,
            },
            "rows_per_task": self.options.rows,
            "seed": self.options.seed,
        }
