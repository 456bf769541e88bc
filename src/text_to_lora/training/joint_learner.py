"""Adapters of many tasks, each trained as far as rows that are kept out of its training let it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, final

import torch
from torch import Tensor

from text_to_lora.errors import T2LError
from text_to_lora.training.joint import JointTrainer
from text_to_lora.training.loop import Learner, StepFigures


@dataclass(frozen=True)
class Mark:
    """Kept-out figures of a task after some steps, means over its kept-out rows; NaN without rows.

    loss: nats an answer token; score: share of rows whose greedy answer is right word for word
    """

    step: int
    loss: float
    score: float


def best_mark(marks: Sequence[Mark]) -> Mark:
    """The mark with the lowest loss; of equal ones the first, and the last where losses are NaN."""
    if marks[-1].loss != marks[-1].loss:
        return marks[-1]
    return min(marks, key=lambda mark: mark.loss)


@final
class JointLearner(Learner):
    """Trains tasks side by side, and keeps the state of each after its best mark.

    jobs: places in the trainer of the jobs of each task; one, or as many as are judged together
    is_due: whether a job is judged after a step, by the job's place and the step
    patience: marks without a better one after which a task stops; None never stops early
    start_counts: the state before the first step may be the best
    """

    def __init__(
        self,
        trainer: JointTrainer,
        jobs: Sequence[Sequence[int]],
        *,
        is_due: Callable[[int, int], bool],
        patience: int | None,
        start_counts: bool = False,
    ) -> None:
        self.unit = "tokens"
        self.num_steps = max(job.num_steps for job in trainer.jobs)
        self.trainer = trainer
        self.jobs = jobs
        self.base_marks: list[Mark] = []
        self.marks: list[list[Mark]] = [[] for _ in jobs]
        self._is_due = is_due
        self._patience = patience
        self._start_counts = start_counts

    def begin(self) -> None:
        """See Learner.begin; judges the base alone, and the adapters that the run starts from."""
        tasks = range(len(self.jobs))
        self.base_marks = self._measure(tasks, adapted=False)
        if self._start_counts:
            self._judge(tasks)

    def is_over(self, step: int) -> bool:
        """See Learner.is_over."""
        return not self.live(step)

    def live(self, step: int) -> list[int]:
        """Tasks that took so many steps, have more, and got better within the last marks."""
        live = []
        for task, marks in enumerate(self.marks):
            misses = len(marks) - 1 - marks.index(self.best(task)) if marks else 0
            patient = self._patience is None or misses < self._patience
            job = self.trainer.jobs[self.jobs[task][0]]
            if patient and self._steps(task) == step < job.num_steps:
                live.append(task)
        return live

    def step(self, step: int) -> StepFigures:
        """See Learner.step; the next step of every live task."""
        live = self.live(step)
        loss, tokens = self.trainer.step([place for task in live for place in self.jobs[task]])
        return StepFigures(loss, tokens, {"tasks": len(live)})

    def validate(self, step: int) -> dict[str, float]:
        """See Learner.validate; the tasks that took this step, where they are due."""
        due = [
            task
            for task, places in enumerate(self.jobs)
            if self._steps(task) == step and self._is_due(places[0], step)
        ]
        if not due:
            return {}
        self._judge(due)
        latest = [marks[-1] for marks in self.marks if marks and marks[-1].loss == marks[-1].loss]
        if not latest:
            return {"unfinished_tasks": len(self.live(step))}
        return {
            "kept_out_loss": fmean(mark.loss for mark in latest),
            "exact_answers": fmean(mark.score for mark in latest),
            "unfinished_tasks": len(self.live(step)),
        }

    def end(self) -> None:
        """See Learner.end; after the last step of every task that has a later one than marks."""
        last = [marks[-1].step if marks else 0 for marks in self.marks]
        self._judge([task for task, step in enumerate(last) if step < self._steps(task)])

    def best(self, task: int) -> Mark:
        """The best mark of a task."""
        return best_mark(self.marks[task])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See Learner.state."""
        base = [asdict(mark) for mark in self.base_marks]
        marks = [[asdict(mark) for mark in marks] for marks in self.marks]
        return self.trainer.state_dict(), {"base": base, "marks": marks}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """See Learner.load_state."""
        self.trainer.load_state_dict(tensors)
        self.base_marks = [Mark(**mark) for mark in values["base"]]
        self.marks = [[Mark(**mark) for mark in marks] for marks in values["marks"]]

    def _judge(self, tasks: Sequence[int]) -> None:
        """Note the kept-out figures of these tasks, and keep the states that are their best."""
        for task, mark in zip(tasks, self._measure(tasks), strict=True):
            job = self.trainer.jobs[self.jobs[task][0]]
            if job.selection and not abs(mark.loss) < float("inf"):
                raise T2LError(
                    f"the kept-out loss of {job.name} is {mark.loss} at step {mark.step}; the "
                    f"learning rate is {self.trainer.learning_rate:g}, lower it"
                )
            self.marks[task].append(mark)
            if self.best(task) is mark:
                self.trainer.keep(self.jobs[task])

    def _measure(self, tasks: Sequence[int], *, adapted: bool = True) -> list[Mark]:
        """The kept-out figures of these tasks, means over their jobs."""
        if not tasks:
            return []
        counts = [len(self.jobs[task]) for task in tasks]
        places = [place for task in tasks for place in self.jobs[task]]
        figures = torch.stack(self.trainer.measure(places, adapted=adapted))
        return [
            Mark(self._steps(task), *part.mean(1).tolist())
            for task, part in zip(tasks, torch.split(figures, counts, dim=1), strict=True)
        ]

    def _steps(self, task: int) -> int:
        return self.trainer.steps[self.jobs[task][0]]
