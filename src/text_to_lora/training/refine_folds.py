"""Which rows of a task train and which are kept out; kept-out figures by step, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from text_to_lora.tasks.user_rows import Rows
from text_to_lora.training.joint import Job
from text_to_lora.training.joint_learner import Mark
from text_to_lora.training.refine_settings import RefineSettings, RefineTask

LEAVE_ONE_OUT_BELOW: Final = 8
"""Rows under which every row is left out in turn: a quarter of them would be one row."""
FOLD_STEPS: Final = 16
"""Steps of tasks whose rows are left out in turn; each step trains as many adapters as rows."""
PATIENCE: Final = 8
"""Marks without a better one after which a task stops."""
_SMALL_FALL: Final = 0.01  # nats a token; less is within what another draw of rows changes


def make_folds(task: RefineTask, settings: RefineSettings, steps: int) -> list[Job]:
    """The runs that judge a task's steps: one with rows kept out, or one for each row left out.

    steps: of each run, at most
    Which rows are kept out depends on the rows and the seed alone, not on the order of the rows.
    """
    rng = Random(f"{settings.seed}/kept out")
    rows = sorted(task.rows)
    rng.shuffle(rows)
    rows.sort(key=lambda row: row[1])  # of each answer in proportion, as far as that goes
    if len(rows) < LEAVE_ONE_OUT_BELOW:
        folds = [{place} for place in range(len(rows))]
        steps = min(steps, FOLD_STEPS)
    else:
        count = min(max(2, round(settings.keep_out * len(rows))), len(rows) - 2)
        offset = rng.random()
        folds = [{int((part + offset) * len(rows) / count) for part in range(count)}]
    return [
        make_job(
            task.name,
            [row for place, row in enumerate(rows) if place not in places],
            settings,
            steps,
            selection=tuple(rows[place] for place in sorted(places)),
        )
        for places in folds
    ]


def make_job(
    name: str,
    rows: Sequence[tuple[str, str]],
    settings: RefineSettings,
    steps: int,
    selection: Rows = (),
) -> Job:
    """Whole shuffled passes over rows, as many as the steps need."""
    rng = Random(f"{settings.seed}/order")
    batch_size = min(settings.batch_size, len(rows))
    order: list[tuple[str, str]] = []
    while len(order) < steps * batch_size:
        order += rng.sample(rows, len(rows))
    return Job(name, order[: steps * batch_size], selection, batch_size, eval_every=1)


def is_due(step: int) -> bool:
    """Whether kept-out rows are judged after a step: after each at first, then at growing distances."""
    return step % max(1, step // 8) == 0


def outlook(marks: Sequence[Mark]) -> str:
    """What as much time again would likely bring, by the slope of the kept-out loss.

    A loss that falls along the logarithm of the steps falls in twice the steps by as much again as
    in the second half of those taken, which is what is expected here.
    """
    last = marks[-1]
    lowest = min(marks, key=lambda mark: mark.loss)
    if last.step < 4:
        return "too few steps were taken to tell what more time would bring"
    middle = next(mark for mark in marks if 2 * mark.step >= last.step)
    if lowest.step <= middle.step:
        return (
            f"more time would likely not help: of {last.step} steps the kept-out loss was lowest "
            f"after {lowest.step}; more rows may help"
        )
    fall = middle.loss - lowest.loss
    if fall < _SMALL_FALL:
        return (
            "more time would likely change little: the second half of the steps lowered the "
            f"kept-out loss by {fall:.3f} nats"
        )
    return (
        f"as much time again would likely lower the kept-out loss by about {fall:.2f} nats, as the "
        "second half of the steps did"
    )
