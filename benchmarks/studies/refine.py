"""What to tune when an adapter is refined on a few rows: the factors, the task's code, or both.

Validation tasks are training tasks of the groups that the training sets aside. Of each, k rows with
idx % 10 < 5 are drawn to refine on, and others with idx % 10 >= 5 are scored. Arms:

- factors: A and B of the generated adapter, with a pull towards it
- code: an offset of the latent code that the heads read, the hypernetwork frozen
- both: the code for the first half of the steps, then the factors
- usual: A and B from LoRA's usual start, the same training without the sentence

A cell is one arm with its rate and pull, one k, one draw and one group of tasks trained together. Its
file holds kept-out and test figures after every judged step, so that rules of choosing the step can be
compared without training again. A run that was interrupted makes the cells that are missing.

    python -m benchmarks.studies.refine --model MODEL --data DIR --out OUT
    python -m benchmarks.studies.refine --out OUT --show
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lib import RESULTS, make_cell
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import Hypernetwork, load_hypernet
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.hypernet.tokens import TokenStates
from text_to_lora.lora import LoraWeights
from text_to_lora.models.find import find_hypernet
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Example, Task
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.module import SftModule
from text_to_lora.training.refine_folds import is_due, make_folds, make_job
from text_to_lora.training.refine_settings import RefineSettings, RefineTask
from text_to_lora.training.split import split_by_group
from text_to_lora.training.step_adapters import StackedAdapters, StepAdapters

RATES = {
    "factors": (2e-4, 5e-4, 1e-3),
    "usual": (2e-4, 5e-4, 1e-3),
    "code": (1e-2, 3e-2),
    "both": (1e-2, 3e-2),  # of the code; the factors then train at FACTOR_RATE
}
FACTOR_RATE = 5e-4
PULLS = {"factors": (0.0, 1.0, 10.0), "usual": (0.0,), "code": (0.0,), "both": (1.0,)}
PROMPT_TOKENS, ANSWER_TOKENS = 256, 64

Pair = tuple[str, str]


class CodeAdapters(StepAdapters):
    """Adapters that a frozen hypernetwork decodes from latent codes, each with a trained offset.

    latent: codes of the descriptions, [adapters, slots, latent]; states: of the same descriptions
    The offset [adapters, latent] is added to the codes of all slots alike.
    """

    def __init__(self, hypernet: Hypernetwork, latent: Tensor, states: TokenStates | None) -> None:
        super().__init__()
        self.spec = hypernet.spec
        self.offset = nn.Parameter(torch.zeros(len(latent), latent.shape[-1]))
        self._hypernet = (hypernet.requires_grad_(False).eval(),)  # no submodule, so not trained
        self._latent, self._states = latent, states

    def forward(self, embeddings: Tensor, texts: Sequence[str]) -> LoraWeights:
        """See StepAdapters.forward."""
        (hypernet,) = self._hypernet
        factors = hypernet.decode(self._latent + self.offset[:, None], self._states)
        return LoraWeights(self.spec, *hypernet.output(*factors))


@dataclass(frozen=True)
class Cell:
    """One arm under one setting, on k rows of each task of one group."""

    arm: str
    rate: float
    pull: float
    k: int
    draw: int
    group: int

    @property
    def name(self) -> str:
        """Of the file."""
        return (
            f"{self.arm}-rate{self.rate:g}-pull{self.pull:g}-k{self.k}-draw{self.draw}"
            f"-group{self.group}"
        )


class Study:
    """The loaded models and the validation tasks."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        loaded = load_hypernet(find_hypernet(options.model))
        self.hypernet = loaded.hypernet
        self.t2l = TextToLora(loaded, name=options.model)
        if options.base:
            self.t2l.attach_base(*self.t2l.load_base(options.base))
        tasks = split_by_group(load_data_dir(options.data, options.split), options.one_in)[1]
        enough = [t for t in tasks if len(t.support()) >= max(options.k) and t.scored()]
        self.tasks = sorted(enough, key=lambda task: task.name)[: options.tasks]
        base, tokenizer = self.t2l.base
        self.encoder = RowEncoder(
            tokenizer,
            max_prompt_tokens=PROMPT_TOKENS,
            max_answer_tokens=ANSWER_TOKENS,
        )
        self.base = base

    def cells(self) -> list[Cell]:
        """All cells, so ordered that a part of them holds every arm."""
        options = self.options
        groups = range(-(-len(self.tasks) // options.together))
        return [
            Cell(arm, rate, pull, k, draw, group)
            for draw, k, group in product(range(options.draws), options.k, groups)
            for arm in options.arms
            for rate, pull in product(RATES[arm], PULLS[arm])
        ]

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train a cell and judge it; gives [step, kept-out loss, score, test loss, score] by task."""
        first = cell.group * self.options.together
        tasks = self.tasks[first : first + self.options.together]
        settings = RefineSettings.make(lr=cell.rate, pull=cell.pull, seed=cell.draw)
        jobs, owners, folds = self._jobs(tasks, cell, settings)
        tests = [
            _draw(task.scored(), self.options.test_rows, f"test/{task.name}") for task in tasks
        ]
        adapters = self._adapters(cell.arm, tasks, owners)
        trainer = self._trainer(adapters, jobs, settings)
        curves: list[list[list[float]]] = [[] for _ in tasks]
        offset, middle = 0, self.options.steps // 2
        for step in range(self.options.steps + 1):
            if step and cell.arm == "both" and step == middle + 1:
                factors = StackedAdapters.from_weights(trainer.weights())
                later = settings.model_copy(update={"lr": FACTOR_RATE})
                trainer = self._trainer(factors, [_after(job, middle) for job in jobs], later)
                offset = middle
            if step:
                trainer.step(range(len(jobs)))
            assert trainer.steps[0] + offset == step
            if step == 0 or is_due(step):
                self._judge(trainer, jobs, folds, tests, curves, step)
        return {"tasks": {task.name: curve for task, curve in zip(tasks, curves, strict=True)}}

    def _jobs(
        self, tasks: Sequence[Task], cell: Cell, settings: RefineSettings
    ) -> tuple[list[Job], list[int], list[list[int]]]:
        """Jobs of all tasks, the task of each, and the places of each task's jobs.

        The last job of a task is the one whose adapter is tested; the others leave a row out each.
        """
        jobs: list[Job] = []
        owners: list[int] = []
        folds: list[list[int]] = []
        for place, task in enumerate(tasks):
            rows = _draw(task.support(), cell.k, f"{cell.draw}/{task.name}")
            of_task = make_folds(RefineTask(task.name, task.definition, rows), settings, 10**4)
            of_task = [_with_steps(job, self.options.steps) for job in of_task]
            if len(of_task) > 1:
                of_task.append(make_job(task.name, rows, settings, self.options.steps))
            folds.append(list(range(len(jobs), len(jobs) + len(of_task))))
            owners += [place] * len(of_task)
            jobs += of_task
        return jobs, owners, folds

    def _adapters(self, arm: str, tasks: Sequence[Task], owners: Sequence[int]) -> StepAdapters:
        texts = [task.definition for task in tasks]
        if arm == "usual":
            return StackedAdapters(self.t2l.spec, len(owners), torch.Generator().manual_seed(0))
        if arm == "factors":
            return StackedAdapters.from_weights(self.t2l.generate(texts).weights.select(owners))
        hypernet, states = self.hypernet, None
        if hypernet.config.tokens is not None:
            states = TokenReader(*self.t2l.base, hypernet.spec, hypernet.config.tokens)(texts)
        with torch.no_grad():
            latent = hypernet.codes(self.t2l.encode(texts), states)
        chosen = None if states is None else states.select(owners)
        return CodeAdapters(hypernet, latent[torch.tensor(owners)], chosen)

    def _trainer(
        self, adapters: StepAdapters, jobs: Sequence[Job], settings: RefineSettings
    ) -> JointTrainer:
        return JointTrainer(
            SftModule(adapters, self.base),
            jobs,
            self.encoder,
            settings.optimizer(),
            tokens_per_pass=settings.tokens_per_pass,
            pull_to_start=True,
        )

    def _judge(
        self,
        trainer: JointTrainer,
        jobs: Sequence[Job],
        folds: Sequence[Sequence[int]],
        tests: Sequence[Sequence[Pair]],
        curves: Sequence[list[list[float]]],
        step: int,
    ) -> None:
        everywhere = range(len(jobs))
        held_out = torch.stack(trainer.measure(everywhere, [job.selection for job in jobs]))
        tested = torch.stack(trainer.measure([places[-1] for places in folds], tests))
        for place, places in enumerate(folds):
            figures = [*held_out[:, places].nanmean(1).tolist(), *tested[:, place].tolist()]
            curves[place].append([step, *(round(figure, 4) for figure in figures)])


def _with_steps(job: Job, steps: int) -> Job:
    return replace(job, rows=job.rows[: steps * job.batch_size])


def _after(job: Job, steps: int) -> Job:
    return replace(job, rows=job.rows[steps * job.batch_size :])


def _draw(examples: Sequence[Example], count: int, seed: str) -> tuple[Pair, ...]:
    """Different rows of a task, as many as asked for or as there are."""
    distinct = list(dict.fromkeys((example.input, example.outputs[0]) for example in examples))
    return tuple(Random(f"refine/{seed}").sample(distinct, min(count, len(distinct))))


def show(folder: Path) -> str:
    """A table: mean test score and loss by arm, rate, pull and k, by the rule that chooses the step."""
    groups: dict[tuple[Any, ...], list[list[list[float]]]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        cell = json.loads(file.read_text())
        key = (cell["k"], cell["arm"], cell["rate"], cell["pull"])
        groups[key] += list(cell["tasks"].values())
    rules: dict[str, Callable[..., Any]] = {
        "start": lambda curve: curve[0],
        "kept-out loss": lambda curve: min(curve, key=lambda mark: mark[1]),
        "kept-out score": lambda curve: min(curve, key=lambda mark: (-mark[2], mark[1])),
        "last": lambda curve: curve[-1],
        "best on test": lambda curve: min(curve, key=lambda mark: (-mark[4], mark[3])),
    }
    lines = [
        "| k | arm | rate | pull | tasks | " + " | ".join(rules) + " |",
        "|" + "---|" * (5 + len(rules)),
    ]
    for (k, arm, rate, pull), curves in sorted(groups.items()):
        shown = []
        for rule in rules.values():
            marks = [rule(curve) for curve in curves]
            score = sum(mark[4] for mark in marks) / len(marks)
            loss = sum(mark[3] for mark in marks) / len(marks)
            steps = sum(mark[0] for mark in marks) / len(marks)
            shown.append(f"{score:.3f} ({loss:.2f} nats, {steps:.0f} steps)")
        lines.append(f"| {k} | {arm} | {rate:g} | {pull:g} | {len(curves)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Make the cells that are missing, or show those that are there."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--model", default="embedded", help="hypernetwork")
    arguments.add_argument("--base", help="base model; default: the one of the hypernetwork")
    arguments.add_argument("--data", type=Path, help="folder of task collections")
    arguments.add_argument("--split", default="train", help="split of the validation tasks")
    arguments.add_argument("--one-in", type=int, default=16, help="as data.validation_one_in")
    arguments.add_argument("--tasks", type=int, help="tasks at most; default: all")
    arguments.add_argument("--together", type=int, default=8, help="tasks trained together")
    arguments.add_argument("--arms", nargs="+", choices=RATES, default=list(RATES))
    arguments.add_argument("--k", type=int, nargs="+", default=[4, 16, 64], help="rows a task")
    arguments.add_argument("--steps", type=int, default=32, help="steps of every cell")
    arguments.add_argument("--draws", type=int, default=1, help="draws of rows")
    arguments.add_argument("--test-rows", type=int, default=20, help="rows scored a task")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments.add_argument("--out", type=Path, default=RESULTS / "refine", help="folder of cells")
    arguments.add_argument("--show", action="store_true", help="print a table of the cells")
    options = arguments.parse_args()
    if options.show:
        print(show(options.out))
        return
    if options.data is None:
        arguments.error("--data is needed: the folder of task collections")
    study = Study(options)
    for cell in study.cells():
        identity = {
            **vars(cell),
            "hypernet": study.t2l.fingerprint,
            "steps": options.steps,
            "test_rows": options.test_rows,
        }
        make_cell(
            options.out / f"{cell.name}.json",
            partial(study.run, cell),
            identity=identity,
            threads=options.threads,
        )


if __name__ == "__main__":
    main()
