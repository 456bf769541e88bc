"""Refining: generated adapters trained on a few rows each, as far as kept-out rows let them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file, save_file

from text_to_lora.errors import T2LError, T2LWarning
from text_to_lora.files import read_json, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import ObjectiveSection
from text_to_lora.training.interrupts import deferred_interrupt
from text_to_lora.training.joint import StackedAdapters
from text_to_lora.training.joint_trainer import Job, JointTrainer
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
from text_to_lora.training.refine_settings import (
    Limits,
    RefineConfig,
    RefineSettings,
    RefineTask,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_STEPS: Final = 1000
"""Steps of a task where seconds are the only limit."""
_SAVE_SECONDS: Final = 10.0  # between states to resume from
_SAVE_SHARE: Final = 0.05  # of the time may go into saving them


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
    search = _Search(start, tasks, base, tokenizer, settings, limits, clock)
    if state is not None:
        state.open(
            RefineConfig(settings=settings, inputs=identify(start.spec, tasks)), resume=resume
        )
    search.run(state, report)
    weights = search.best_weights()
    return Refined(weights, tuple(search.record(place) for place in range(len(tasks))))


class _Search:
    """Trains every task step by step and judges its kept-out rows, until no step helps."""

    def __init__(
        self,
        start: LoraWeights,
        tasks: Sequence[RefineTask],
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: RefineSettings,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._start, self._tasks, self._settings = start, tasks, settings
        self._limits, self._clock = limits, clock
        self._base = base
        self._encoder = make_encoder(tasks, base, tokenizer, settings)
        steps = limits.steps or MAX_STEPS
        folds = [make_folds(task, settings, steps) for task in tasks]
        self._jobs = [job for jobs in folds for job in jobs]
        ends = torch.tensor([len(jobs) for jobs in folds]).cumsum(0).tolist()
        self._places = [list(range(e - len(jobs), e)) for jobs, e in zip(folds, ends, strict=True)]
        check_memory(len(self._jobs), start.spec.num_parameters, settings.memory_gib)
        owners = [task for task, places in enumerate(self._places) for _ in places]
        self._trainer = self._make_trainer(start.select(owners), self._jobs)
        self._base_marks: list[Mark] = []
        self._marks: list[list[Mark]] = [[] for _ in tasks]
        self._seconds = 0.0

    def run(self, state: RunFolder | None, report: Callable[[str], None]) -> None:
        """Take steps until all tasks are done or the time is over; the state is written at the end."""
        if state is not None:
            self._load(state, report)
        began = self._clock() - self._seconds
        if not self._base_marks:
            self._judge_starts()
        saved_at, save_seconds, step_seconds = self._clock(), 0.0, 0.0
        with deferred_interrupt() as is_interrupted:
            while live := self._live():
                self._seconds = self._clock() - began
                if is_interrupted() or self._seconds + step_seconds > self._budget():
                    break
                self._take_step(live)
                report(self._progress())
                step_seconds = self._clock() - began - self._seconds
                pause = max(_SAVE_SECONDS, save_seconds / _SAVE_SHARE)
                if state is not None and self._clock() - saved_at > pause:
                    saving_at = self._clock()
                    self._save(state, saving_at - began)
                    saved_at = self._clock()
                    save_seconds = saved_at - saving_at
            if not is_interrupted():
                self._judge([task for task in range(len(self._tasks)) if self._is_unjudged(task)])
            self._seconds = self._clock() - began
            if state is not None:
                self._save(state, self._seconds)
            if is_interrupted():
                raise KeyboardInterrupt

    def best_weights(self) -> LoraWeights:
        """The adapters after the chosen steps; those whose rows were left out in turn train on all."""
        best = self._trainer.best()
        adapters = [best.select([places[0]]) for places in self._places]
        chosen = [best_mark(marks, self._settings).step for marks in self._marks]
        again = [task for task, places in enumerate(self._places) if len(places) > 1]
        jobs = [
            make_job(self._tasks[task].name, self._tasks[task].rows, self._settings, chosen[task])
            for task in again
            if chosen[task]
        ]
        again_trained = [task for task in again if chosen[task]]
        for task in again:
            adapters[task] = self._start.select([task])
        if again_trained:
            trainer = self._make_trainer(self._start.select(again_trained), jobs)
            while live := trainer.live:
                trainer.step(live)
            for task, weights in zip(
                again_trained, trainer.adapters.weights().unbind(), strict=True
            ):
                adapters[task] = weights
        return LoraWeights.stack(adapters)

    def record(self, task: int) -> dict[str, Any]:
        """What provenance says of a task's refinement, and warnings about its figures."""
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
        return {
            "rows": len(rows),
            "rows_sha256": hash_rows(self._tasks[task]),
            "kept_out_rows": folds
            if folds > 1
            else len(self._jobs[self._places[task][0]].selection),
            "kept_out_by": "each left out in turn" if folds > 1 else "a share kept out",
            "seconds": round(self._seconds, 2),
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
        objective = ObjectiveSection(label_smoothing=0.0, neftune_alpha=0.0, weight_penalty=0.0)
        return JointTrainer(
            SftModule(StackedAdapters.from_weights(start), self._base, objective),
            jobs,
            self._encoder,
            self._settings.optimizer(),
            tokens_per_pass=self._settings.tokens_per_pass,
            seed=self._settings.seed,
            pull_to_start=True,
        )

    def _judge_starts(self) -> None:
        """Judge the base alone and the starts; the adapters of LoRA's usual start change nothing."""
        jobs = range(len(self._jobs))
        usual = StackedAdapters(self._start.spec, len(self._jobs), torch.Generator()).weights()
        base = self._make_trainer(usual.to(device=self._start.device), self._jobs)
        self._base_marks = self._mark(base, range(len(self._tasks)))
        assert base.steps == [0] * len(jobs)
        self._judge(range(len(self._tasks)))

    def _judge(self, tasks: Sequence[int]) -> None:
        """Note the kept-out figures of these tasks, and keep the states that are their best."""
        for task, mark in zip(tasks, self._mark(self._trainer, tasks), strict=True):
            self._marks[task].append(mark)
            if best_mark(self._marks[task], self._settings) is mark:
                self._trainer.keep(self._places[task])

    def _mark(self, trainer: JointTrainer, tasks: Sequence[int]) -> list[Mark]:
        jobs = [place for task in tasks for place in self._places[task]]
        losses, scores = trainer.measure(jobs, [self._jobs[place].selection for place in jobs])
        loss_of = dict(zip(jobs, losses.tolist(), strict=True))
        score_of = dict(zip(jobs, scores.tolist(), strict=True))
        marks = []
        for task in tasks:
            places = self._places[task]
            loss = sum(loss_of[place] for place in places) / len(places)
            score = sum(score_of[place] for place in places) / len(places)
            marks.append(Mark(trainer.steps[places[0]], loss, score))
        return marks

    def _take_step(self, live: Sequence[int]) -> None:
        try:
            self._trainer.step([place for task in live for place in self._places[task]])
        except T2LError as error:
            raise T2LError(
                f"{error}; the learning rate is {self._settings.lr:g}, lower it"
            ) from None
        self._judge([task for task in live if is_due(self._step(task))])

    def _step(self, task: int) -> int:
        return self._trainer.steps[self._places[task][0]]

    def _is_unjudged(self, task: int) -> bool:
        return self._marks[task][-1].step < self._step(task)

    def _live(self) -> list[int]:
        """Tasks with steps left whose kept-out figures got better within the last marks."""
        limit = self._limits.steps or MAX_STEPS
        live = []
        for task, marks in enumerate(self._marks):
            step = self._step(task)
            best = marks.index(best_mark(marks, self._settings))
            within = step < min(limit, self._jobs[self._places[task][0]].num_steps)
            if within and len(marks) - 1 - best < PATIENCE:
                live.append(task)
        return live

    def _budget(self) -> float:
        """Seconds for the search: the limit without the last training of tasks judged in turn."""
        if self._limits.seconds is None:
            return float("inf")
        in_search = sum(job.batch_size + len(job.selection) / 3 for job in self._jobs)
        last = sum(
            min(self._settings.batch_size, len(task.rows))
            for task, places in zip(self._tasks, self._places, strict=True)
            if len(places) > 1
        )
        return self._limits.seconds * in_search / (in_search + last)

    def _progress(self) -> str:
        latest = [marks[-1] for marks in self._marks]
        loss = sum(mark.loss for mark in latest) / len(latest)
        score = sum(mark.score for mark in latest) / len(latest)
        step = max(self._trainer.steps)
        return f"step {step}: kept-out loss {loss:.3f} nats, {score:.0%} of answers exact"

    def _save(self, state: RunFolder, seconds: float) -> None:
        with state.checkpoint(max(self._trainer.steps), keep=1) as folder:
            save_file(self._trainer.state_dict(), folder / "state.safetensors")
            history = {
                "seconds": seconds,
                "base": [asdict(mark) for mark in self._base_marks],
                "marks": [[asdict(mark) for mark in marks] for marks in self._marks],
            }
            write_json(folder / "history.json", history)

    def _load(self, state: RunFolder, report: Callable[[str], None]) -> None:
        checkpoint = state.newest_checkpoint()
        if checkpoint is None:
            return
        device = str(self._start.device)
        self._trainer.load_state_dict(load_file(checkpoint / "state.safetensors", device=device))
        history = read_json(checkpoint / "history.json")
        self._seconds = history["seconds"]
        self._base_marks = [Mark(**mark) for mark in history["base"]]
        self._marks = [[Mark(**mark) for mark in marks] for marks in history["marks"]]
        report(f"going on after step {max(self._trainer.steps)} and {self._seconds:.0f} s")
