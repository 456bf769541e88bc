"""What a few rows add to a sentence: arms that refine an adapter, each from its own start.

With validation tasks, which are training tasks of the groups that the training sets aside, the study
chooses what to tune and at which rate; with `--unseen` it reports the unseen tasks. Of each task k rows
with idx % 10 < 5 are drawn to refine on, and others with idx % 10 >= 5 are tested. Arms:

- sentence: A and B of the adapter that is generated from the definition, with a pull towards it
- code: an offset of the latent code that the heads read, the hypernetwork frozen
- both: the code for the first half of the steps, then A and B
- usual, multitask, nearest: A and B from LoRA's usual start, from the multi-task adapter, and from the
  adapter of `--library` whose description is nearest to the definition
- examples: nothing is trained; the rows stand in the base's prompt, as many as 1,024 tokens hold
- oracle: nothing is trained; the task's own adapter of `--oracles`

A cell is one arm with its rate and pull, one k, one draw and one group of tasks trained together. Its
file holds kept-out and test figures after 0, 1, 2, 4, 8, 16 steps and so on, and after the last. A run
that was interrupted makes the cells that are missing.

    python -m benchmarks.studies.refine --data DIR --out OUT
    python -m benchmarks.studies.refine --data DIR --out OUT --unseen --library LIBRARY --oracles ORACLES
    python -m benchmarks.studies.refine --out OUT --show
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lib import RESULTS, make_cell, memory_bytes
from text_to_lora import load_adapter
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import Hypernetwork, load_hypernet
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.hypernet.tokens import TokenStates
from text_to_lora.library.library import load_library
from text_to_lora.lora import LoraWeights
from text_to_lora.models.find import embedded_folder, find_hypernet
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.prompts import PromptFormat
from text_to_lora.tasks.task import Example, Task
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.module import SftModule
from text_to_lora.training.refine_folds import make_folds, make_job
from text_to_lora.training.refine_settings import RefineSettings, RefineTask
from text_to_lora.training.split import split_by_group
from text_to_lora.training.step_adapters import StackedAdapters, StepAdapters

UNTRAINED = ("examples", "oracle")
SETTINGS: dict[str, tuple[tuple[float, float], ...]] = {
    "sentence": ((1e-3, 1.0), (5e-4, 1.0), (2e-3, 1.0), (1e-3, 10.0)),
    "usual": ((1e-3, 0.0), (2e-3, 0.0), (5e-4, 0.0)),
    "code": ((1e-2, 0.0), (3e-2, 0.0)),
    "both": ((1e-2, 1.0),),  # of the code; the factors then train at FACTOR_RATE
}
"""Rates and pulls that are compared on validation tasks."""
FACTOR_RATE = 1e-3
CHOSEN = (1e-3, 10.0)
"""Rate and pull on unseen tasks; see docs/log.md."""
PROMPT_TOKENS, ANSWER_TOKENS = 256, 64
PROMPT_TOKENS_OF_EXAMPLES = 1024

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
        setting = "" if self.arm in UNTRAINED else f"-rate{self.rate:g}-pull{self.pull:g}"
        return f"{self.arm}{setting}-k{self.k}-draw{self.draw}-group{self.group}"


class Study:
    """The loaded models and the tasks."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        loaded = load_hypernet(find_hypernet(options.model))
        self.hypernet = loaded.hypernet
        self.t2l = TextToLora(loaded, name=options.model)
        if options.base:
            self.t2l.attach_base(*self.t2l.load_base(options.base))
        tasks = load_data_dir(options.data, "dev_heldout" if options.unseen else "train")
        if not options.unseen:
            tasks = split_by_group(tasks, options.one_in)[1]
        enough = [t for t in tasks if len(t.support()) >= min(options.k) and t.scored()]
        self.tasks = sorted(enough, key=lambda task: task.name)[: options.tasks]

    def cells(self) -> list[Cell]:
        """All cells, so ordered that a part of them holds every arm."""
        options = self.options
        groups = range(-(-len(self.tasks) // options.together))
        return [
            Cell(arm, rate, pull, k, draw, group)
            for draw, k, arm in product(range(options.draws), options.k, options.arms)
            for rate, pull in (
                [options.setting] if options.setting else SETTINGS.get(arm, (CHOSEN,))
            )
            for group in groups
        ]

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train a cell and test it; gives [step, kept-out loss, score, test loss, score] by task."""
        first = cell.group * self.options.together
        tasks = self.tasks[first : first + self.options.together]
        settings = RefineSettings.make(rate=cell.rate, pull=cell.pull, seed=cell.draw)
        jobs, owners, folds = self._jobs(tasks, cell, settings)
        tests: list[Sequence[Pair]] = [
            _draw(task.scored(), self.options.test_rows, f"test/{task.name}") for task in tasks
        ]
        trainer = self._trainer(self._adapters(cell.arm, tasks, owners), jobs, settings)
        curves: list[list[list[float]]] = [[] for _ in tasks]
        if cell.arm == "examples":
            tests = [
                self._with_examples(task, cell, test)
                for task, test in zip(tasks, tests, strict=True)
            ]
            trainer = self._trainer(
                trainer.adapters, jobs, settings, max_prompt=PROMPT_TOKENS_OF_EXAMPLES
            )
            self._judge(trainer, jobs, folds, tests, curves, 0, adapted=False)
        steps = 0 if cell.arm in UNTRAINED else self.options.steps
        if cell.arm != "examples":
            self._judge(trainer, jobs, folds, tests, curves, 0)
        middle, seconds = steps // 2, 0.0
        for step in range(1, steps + 1):
            if cell.arm == "both" and step == middle + 1:
                factors = StackedAdapters.from_weights(trainer.weights())
                later = settings.model_copy(update={"rate": FACTOR_RATE})
                trainer = self._trainer(factors, [_after(job, middle) for job in jobs], later)
            started = time.perf_counter()
            trainer.step(range(len(jobs)))
            seconds += time.perf_counter() - started
            if step == steps or step & (step - 1) == 0:
                self._judge(trainer, jobs, folds, tests, curves, step)
        return {
            "tasks": {task.name: curve for task, curve in zip(tasks, curves, strict=True)},
            "groups": {task.name: group_of(task) for task in tasks},
            "peak_memory_gib": round(memory_bytes("VmHWM") / 2**30, 2),
            "seconds_per_task": round(seconds / len(tasks), 1),  # of training, without judging
        }

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
            rows = self._rows(task, cell)
            of_task = make_folds(RefineTask(task.name, task.definition, rows), settings, 10**4)
            of_task = [_with_steps(job, self.options.steps) for job in of_task]
            if len(of_task) > 1:
                of_task.append(make_job(task.name, rows, settings, self.options.steps))
            folds.append(list(range(len(jobs), len(jobs) + len(of_task))))
            owners += [place] * len(of_task)
            jobs += of_task
        return jobs, owners, folds

    def _rows(self, task: Task, cell: Cell) -> tuple[Pair, ...]:
        return _draw(task.support(), cell.k, f"{cell.draw}/{task.name}")

    def _adapters(self, arm: str, tasks: Sequence[Task], owners: Sequence[int]) -> StepAdapters:
        texts = [task.definition for task in tasks]
        spec, base = self.t2l.spec, self.t2l.base[0]
        if arm in ("usual", "examples"):
            return StackedAdapters(spec, len(owners), torch.Generator().manual_seed(0))
        if arm == "multitask":
            start = load_adapter(embedded_folder("multitask"), base_config=base.config)
            start = start.select([0] * len(tasks))
        elif arm == "nearest":
            start = self._nearest(texts)
        elif arm == "oracle":
            oracles = load_library(self.options.oracles, base_config=base.config)
            places = {entry.task: place for place, entry in enumerate(oracles.entries)}
            start = oracles.weights.select([places[task.name] for task in tasks])
        elif arm == "sentence":
            start = self.t2l.generate(texts).weights
        else:
            return self._codes(texts, owners)
        return StackedAdapters.from_weights(start.to(dtype=torch.float32).select(owners))

    def _nearest(self, texts: Sequence[str]) -> LoraWeights:
        """The library's adapters whose descriptions are nearest to the texts by cosine."""
        library = load_library(self.options.library, base_config=self.t2l.base[0].config)
        described = [
            (place, text)
            for place, entry in enumerate(library.entries)
            for text in entry.descriptions[:8]
        ]
        cosines = self.t2l.encode(texts) @ self.t2l.encode([text for _, text in described]).T
        return library.weights.select([described[n][0] for n in cosines.argmax(1).tolist()])

    def _codes(self, texts: Sequence[str], owners: Sequence[int]) -> CodeAdapters:
        hypernet, states = self.hypernet, None
        if hypernet.config.tokens is not None:
            reader = TokenReader.of_model(*self.t2l.base, hypernet.spec, hypernet.config.tokens)
            states = reader(texts)
        with torch.no_grad():
            latent = hypernet.codes(self.t2l.encode(texts), states)
        chosen = None if states is None else states.select(owners)
        return CodeAdapters(hypernet, latent[torch.tensor(owners)], chosen)

    def _trainer(
        self,
        adapters: StepAdapters,
        jobs: Sequence[Job],
        settings: RefineSettings,
        max_prompt: int = PROMPT_TOKENS,
    ) -> JointTrainer:
        base, tokenizer = self.t2l.base
        return JointTrainer(
            SftModule(adapters, base),
            jobs,
            RowEncoder(tokenizer, max_prompt_tokens=max_prompt, max_answer_tokens=ANSWER_TOKENS),
            settings.optimizer(),
            tokens_per_pass=settings.tokens_per_pass,
            pull_to_start=True,
        )

    def _with_examples(self, task: Task, cell: Cell, tests: Sequence[Pair]) -> list[Pair]:
        """Test rows whose input begins with the rows of the cell as turns before it."""
        tokenizer, form = self.t2l.base[1], self._format
        assert form.shot is not None
        room = PROMPT_TOKENS_OF_EXAMPLES - 64  # for the turn of the system and the marks around it
        rows = []
        for text, answer in tests:
            shots = ""
            for example, solution in self._rows(task, cell):
                more = f"{shots}{example.strip()}{form.shot[0]}{solution.strip()}{form.shot[1]}"
                if len(tokenizer(more + text).input_ids) > room:
                    break
                shots = more
            rows.append((shots + text, answer))
        return rows

    @cached_property
    def _format(self) -> PromptFormat:
        return PromptFormat.for_tokenizer(self.t2l.base[1])

    def _judge(
        self,
        trainer: JointTrainer,
        jobs: Sequence[Job],
        folds: Sequence[Sequence[int]],
        tests: Sequence[Sequence[Pair]],
        curves: Sequence[list[list[float]]],
        step: int,
        *,
        adapted: bool = True,
    ) -> None:
        everywhere = range(len(jobs))
        selection = [job.selection for job in jobs]
        held_out = torch.stack(trainer.measure(everywhere, selection, adapted=adapted))
        tested = torch.stack(
            trainer.measure([places[-1] for places in folds], tests, adapted=adapted)
        )
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
    arguments.add_argument("--unseen", action="store_true", help="report the unseen tasks")
    arguments.add_argument(
        "--setting", nargs=2, type=float, metavar=("RATE", "PULL"), help="of all arms"
    )
    arguments.add_argument("--library", type=Path, help="library for the arm `nearest`")
    arguments.add_argument("--oracles", type=Path, help="library for the arm `oracle`")
    arguments.add_argument("--one-in", type=int, default=16, help="as data.validation_one_in")
    arguments.add_argument("--tasks", type=int, help="tasks at most; default: all")
    arguments.add_argument("--together", type=int, default=8, help="tasks trained together")
    arguments.add_argument("--arms", nargs="+", default=list(SETTINGS), help="arms to make")
    arguments.add_argument("--k", type=int, nargs="+", default=[16], help="rows a task")
    arguments.add_argument("--steps", type=int, default=24, help="steps of every cell")
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
    if options.unseen and not options.setting:
        options.setting = CHOSEN
    study = Study(options)
    for cell in study.cells():
        identity = {
            **asdict(cell),
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
