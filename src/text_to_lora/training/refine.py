"""Refining: generated adapters trained on a few rows each, as far as kept-out rows let them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from text_to_lora.errors import T2LError, T2LWarning
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.loop import Learner, Loop, Pace, StepFigures
from text_to_lora.training.module import SftModule
from text_to_lora.training.refine_folds import (
    PATIENCE,
    Mark,
    best_mark,
    is_due,
    make_folds,
    make_job,
    outlook,
)
from text_to_lora.training.refine_inputs import check_memory, hash_rows, identify, make_encoder
from text_to_lora.training.refine_settings import Limits, RefineConfig, RefineSettings, RefineTask
from text_to_lora.training.step_adapters import StackedAdapters, read_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_STEPS: Final = 1000
"""Steps of a task where seconds are the only limit."""


@dataclass(frozen=True)
class Refined:
    """Refined adapters, and for each what provenance says of its refinement, as JSON values."""

    weights: LoraWeights
    records: tuple[dict[str, Any], ...]


def refine_adapters(
    start: LoraWeights,
    tasks: Sequence[RefineTask],
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RefineSettings,
    limits: Limits,
    *,
    state: RunFolder | None = None,
    resume: bool = True,
    report: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Train one adapter a task on its rows, all together, each from its own start.

    start: one adapter a task, in the order of the tasks; base: frozen here
    state: folder to which unfinished work is written now and then, and from which it goes on
    resume: False deletes the work that is there
    clock: seconds from any point; report: gets lines of progress

    Raises ConfigError when an answer is longer than the limit, the adapters do not fit the memory,
    or the folder holds work on other rows or with other settings; KeyboardInterrupt after Ctrl-C,
    once the state is written.
    Warns when inputs are cut, and when rows and description seem to be of different tasks.
    """
    assert len(tasks) == start.num_adapters
    start = start.detach().to(device=base.device, dtype=torch.float32)
    encoder = make_encoder(tasks, base, tokenizer, settings)
    learner = _RefineLearner(start, tasks, base, encoder, settings, limits.steps or MAX_STEPS)
    if state is not None:
        state.open(
            RefineConfig(settings=settings, inputs=identify(start.spec, tasks)), resume=resume
        )
    seconds = float("inf") if limits.seconds is None else limits.seconds
    pace = Pace(seconds=seconds * learner.search_share())
    loop = Loop(learner, state, pace, report=report, clock=clock)
    loop.run()
    records = [learner.record(task, loop.seconds) for task in range(len(tasks))]
    return Refined(learner.best_weights(), tuple(records))


@final
class _RefineLearner(Learner):
    """Trains every task step by step and judges its kept-out rows, until no step helps.

    A task has one job, or a job for each row that is left out in turn.
    num_steps: of each task, at most
    """

    def __init__(
        self,
        start: LoraWeights,
        tasks: Sequence[RefineTask],
        base: PreTrainedModel,
        encoder: RowEncoder,
        settings: RefineSettings,
        num_steps: int,
    ) -> None:
        self.unit = "tokens"
        self.num_steps = num_steps
        self._start, self._tasks, self._settings = start, tasks, settings
        self._base, self._encoder = base, encoder
        self._jobs: list[Job] = []
        self._places: list[list[int]] = []  # of the jobs of each task
        for task in tasks:
            jobs = make_folds(task, settings, num_steps)
            self._places.append([len(self._jobs) + place for place in range(len(jobs))])
            self._jobs += jobs
        check_memory(len(self._jobs), start.spec.num_parameters, settings.memory_gib)
        owners = [task for task, places in enumerate(self._places) for _ in places]
        self._trainer = self._make_trainer(start.select(owners), self._jobs)
        self._base_marks: list[Mark] = []
        self._marks: list[list[Mark]] = [[] for _ in tasks]

    def begin(self) -> None:
        # The adapters of LoRA's usual start change nothing, so that these figures are the base's.
        fresh = StackedAdapters(self._start.spec, len(self._jobs), torch.Generator())
        usual = read_weights(fresh).to(device=self._start.device)
        tasks = range(len(self._tasks))
        self._base_marks = self._measure(self._make_trainer(usual, self._jobs), tasks)
        self._judge(tasks)

    def is_over(self, step: int) -> bool:
        return not self._live(step)

    def step(self, step: int) -> StepFigures:
        jobs = [place for task in self._live(step) for place in self._places[task]]
        try:
            return StepFigures(*self._trainer.step(jobs))
        except T2LError as error:
            raise T2LError(
                f"{error}; the learning rate is {self._settings.lr:g}, lower it"
            ) from None

    def validate(self, step: int) -> dict[str, float]:
        if not is_due(step):
            return {}
        self._judge([task for task in range(len(self._tasks)) if self._steps(task) == step])
        latest = [marks[-1] for marks in self._marks]
        return {
            "kept_out_loss": fmean(mark.loss for mark in latest),
            "exact_answers": fmean(mark.score for mark in latest),
        }

    def end(self) -> None:
        tasks = range(len(self._tasks))
        self._judge([task for task in tasks if self._marks[task][-1].step < self._steps(task)])

    def state_dict(self) -> dict[str, Tensor]:
        return self._trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._trainer.load_state_dict(state)

    def notes(self) -> dict[str, Any]:
        return {
            "base": [asdict(mark) for mark in self._base_marks],
            "marks": [[asdict(mark) for mark in marks] for marks in self._marks],
        }

    def load_notes(self, notes: Mapping[str, Any]) -> None:
        self._base_marks = [Mark(**mark) for mark in notes["base"]]
        self._marks = [[Mark(**mark) for mark in marks] for marks in notes["marks"]]

    def search_share(self) -> float:
        """Share of the time for the search; the rest trains tasks anew that are judged in turn."""
        search = sum(job.batch_size + len(job.selection) / 3 for job in self._jobs)
        last = sum(
            min(self._settings.batch_size, len(task.rows))
            for task, places in zip(self._tasks, self._places, strict=True)
            if len(places) > 1
        )
        return search / (search + last)

    def best_weights(self) -> LoraWeights:
        """The adapters after the chosen steps; those whose rows were left out in turn train on all."""
        best = self._trainer.best()
        adapters = [best.select([places[0]]) for places in self._places]
        again: dict[int, Job] = {}
        for task, places in enumerate(self._places):
            if len(places) > 1:
                adapters[task] = self._start.select([task])
                if steps := best_mark(self._marks[task], self._settings).step:
                    name, rows = self._tasks[task].name, self._tasks[task].rows
                    again[task] = make_job(name, rows, self._settings, steps)
        if again:
            jobs = list(again.values())
            trainer = self._make_trainer(self._start.select(list(again)), jobs)
            for step in range(max(job.num_steps for job in jobs)):
                trainer.step([place for place, job in enumerate(jobs) if step < job.num_steps])
            for task, weights in zip(again, trainer.weights().unbind(), strict=True):
                adapters[task] = weights
        return LoraWeights.stack(adapters)

    def record(self, task: int, seconds: float) -> dict[str, Any]:
        """What provenance says of a task's refinement; warns where its figures look wrong."""
        rows, marks = self._tasks[task].rows, self._marks[task]
        best, base = best_mark(marks, self._settings), self._base_marks[task]
        if marks[0].loss > base.loss:
            warnings.warn(
                f"the kept-out rows of {self._tasks[task].name} have a loss of {marks[0].loss:.2f} "
                "nats under the adapter of the description and of "
                f"{base.loss:.2f} under the base alone: rows and description may be of different "
                "tasks; check both",
                T2LWarning,
                stacklevel=4,
            )
        folds = len(self._places[task])
        in_turn = folds > 1
        kept_out = self._jobs[self._places[task][0]].selection
        return {
            "rows": len(rows),
            "rows_sha256": hash_rows(self._tasks[task]),
            "kept_out_rows": folds if in_turn else len(kept_out),
            "kept_out_by": "each left out in turn" if in_turn else "a share kept out",
            "seconds": round(seconds, 2),
            "steps": best.step,
            "steps_tried": marks[-1].step,
            "kept_out": {
                name: {"loss": round(mark.loss, 4), "score": round(mark.score, 4)}
                for name, mark in (("base", base), ("sentence", marks[0]), ("refined", best))
            },
            "by_step": [[m.step, round(m.loss, 4), round(m.score, 4)] for m in marks],
            "outlook": outlook(marks),
            "settings": self._settings.model_dump(mode="json"),
        }

    def _make_trainer(self, start: LoraWeights, jobs: Sequence[Job]) -> JointTrainer:
        return JointTrainer(
            SftModule(StackedAdapters.from_weights(start), self._base),
            jobs,
            self._encoder,
            self._settings.optimizer(),
            tokens_per_pass=self._settings.tokens_per_pass,
            seed=self._settings.seed,
            pull_to_start=True,
        )

    def _judge(self, tasks: Sequence[int]) -> None:
        """Note the kept-out figures of these tasks, and keep the states that are their best."""
        for task, mark in zip(tasks, self._measure(self._trainer, tasks), strict=True):
            self._marks[task].append(mark)
            if best_mark(self._marks[task], self._settings) is mark:
                self._trainer.keep(self._places[task])

    def _measure(self, trainer: JointTrainer, tasks: Sequence[int]) -> list[Mark]:
        """The kept-out figures of these tasks, means over their jobs."""
        jobs = [place for task in tasks for place in self._places[task]]
        counts = [len(self._places[task]) for task in tasks]
        figures = torch.split(torch.stack(trainer.measure(jobs)), counts, dim=1)
        return [
            Mark(trainer.steps[self._places[task][0]], *part.mean(1).tolist())
            for task, part in zip(tasks, figures, strict=True)
        ]

    def _steps(self, task: int) -> int:
        return self._trainer.steps[self._places[task][0]]

    def _live(self, step: int) -> list[int]:
        """Tasks that took so many steps, have more, and got better within the last marks."""
        live = []
        for task, marks in enumerate(self._marks):
            best = marks.index(best_mark(marks, self._settings))
            limit = min(self.num_steps, self._jobs[self._places[task][0]].num_steps)
            if self._steps(task) == step < limit and len(marks) - 1 - best < PATIENCE:
                live.append(task)
        return live
