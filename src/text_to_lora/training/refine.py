"""Refining: generated adapters trained on a few rows each, as far as kept-out rows let them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch

from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.joint_learner import JointLearner
from text_to_lora.training.loop import Loop
from text_to_lora.training.module import SftModule
from text_to_lora.training.refine_folds import PATIENCE, is_due, make_folds, make_job, outlook
from text_to_lora.training.refine_match import warn_of_mismatch
from text_to_lora.training.refine_settings import (
    Limits,
    RefineConfig,
    RefineSettings,
    RefineTask,
    check_memory,
    make_encoder,
)
from text_to_lora.training.step_adapters import StackedAdapters

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
    unrelated: LoraWeights | None = None,
    state: RunFolder | None = None,
    resume: bool = True,
    report: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Refined:
    """Train one adapter a task on its rows, all together, each from its own start.

    start: one adapter a task, in the order of the tasks; base: frozen here
    unrelated: adapters of the sentences of `refine_match`, which the start is compared with
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
    search = _Search(start, tasks, base, encoder, settings, limits.steps or MAX_STEPS)
    if state is not None:
        state.open(RefineConfig.make(settings, start.spec, tasks), resume=resume)
    if unrelated is not None:
        unrelated = unrelated.to(device=base.device, dtype=torch.float32)
        report("comparing the descriptions with unrelated sentences")
        warn_of_mismatch(tasks, start, unrelated, base, encoder)
    seconds = float("inf") if limits.seconds is None else limits.seconds
    limit = seconds * search.share_of_time()
    loop = Loop(search.learner, state, seconds=limit, report=report, clock=clock)
    loop.run()
    records = [search.record(task, loop.seconds) for task in range(len(tasks))]
    return Refined(search.best_weights(), tuple(records))


@final
class _Search:
    """The search for the best step of every task: its jobs, and what came of it.

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
        self._start, self._tasks, self._settings = start, tasks, settings
        self._base, self._encoder = base, encoder
        self._jobs: list[Job] = []
        self._folds: list[list[int]] = []  # places of the jobs of each task
        for task in tasks:
            jobs = make_folds(task, settings, num_steps)
            self._folds.append([len(self._jobs) + place for place in range(len(jobs))])
            self._jobs += jobs
        check_memory(len(self._jobs), start.spec.num_parameters, settings.memory_gib)
        owners = [task for task, places in enumerate(self._folds) for _ in places]
        self.learner = JointLearner(
            self._make_trainer(start.select(owners), self._jobs),
            self._folds,
            is_due=lambda place, step: is_due(step),
            patience=PATIENCE,
            start_counts=True,
        )

    def share_of_time(self) -> float:
        """Share of the time for the search; the rest trains tasks anew that are judged in turn."""
        search = sum(job.batch_size + len(job.selection) / 3 for job in self._jobs)
        last = sum(
            min(self._settings.batch_size, len(task.rows))
            for task, places in zip(self._tasks, self._folds, strict=True)
            if len(places) > 1
        )
        return search / (search + last)

    def best_weights(self) -> LoraWeights:
        """The adapters after the chosen steps; those whose rows were left out in turn train on all."""
        best = self.learner.trainer.best()
        adapters = [best.select([places[0]]) for places in self._folds]
        again: dict[int, Job] = {}
        for task, places in enumerate(self._folds):
            if len(places) > 1:
                adapters[task] = self._start.select([task])
                if steps := self.learner.best(task).step:
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
        """What provenance says of a task's refinement."""
        rows, marks = self._tasks[task].rows, self.learner.marks[task]
        best, base = self.learner.best(task), self.learner.base_marks[task]
        folds = len(self._folds[task])
        in_turn = folds > 1
        selection = self._jobs[self._folds[task][0]].selection
        return {
            "rows": len(rows),
            "rows_sha256": self._tasks[task].rows_hash,
            "kept_out_rows": folds if in_turn else len(selection),
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
