"""What rows learn from: a run has a list of objectives, and each gives some rows a lesson."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from text_to_lora.inference.rows import Rows, answer_logits
from text_to_lora.tasks.task import Task
from text_to_lora.training.config import DataSection, ObjectiveSection
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.losses import answer_losses, distillation_kl

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LearnedRow:
    """A row of a step.

    task: the description and the answer are of this task
    is_swapped: the input is of another task than `task`
    """

    task: Task
    input: str
    answer: str
    description: str
    is_swapped: bool = False


@dataclass(frozen=True)
class Lesson(ABC):
    """What some rows that run through the base together learn.

    places: of these rows among those that run together; weight: factor of their losses
    """

    places: tuple[int, ...]
    weight: float

    def reference(self, base: PreTrainedModel) -> Tensor | None:
        """What the base without adapters says to it, where the losses need that."""
        return None

    @abstractmethod
    def losses(self, logits: Tensor, rows: Rows, reference: Tensor | None) -> Tensor:
        """The loss of each of its rows, without the weight, [places].

        logits: of all rows' answers, [answer tokens, vocab]; reference: what `reference` gave
        """

    def to(self, device: torch.device) -> Lesson:
        """The same lesson on another device."""
        return self


@final
@dataclass(frozen=True)
class AnswerLesson(Lesson):
    """Rows learn their answers by cross-entropy."""

    label_smoothing: float = 0.0

    def losses(self, logits: Tensor, rows: Rows, reference: Tensor | None) -> Tensor:
        """See Lesson.losses; in nats a token."""
        losses = answer_losses(logits, rows, label_smoothing=self.label_smoothing)
        return losses[list(self.places)]


@final
@dataclass(frozen=True)
class TeacherLesson(Lesson):
    """Rows learn to answer as the base does that has the description in its prompt.

    teacher: the rows with that prompt, [places]
    """

    teacher: Rows

    def reference(self, base: PreTrainedModel) -> Tensor:
        """See Lesson.reference; the teacher's logits, [answer tokens of its rows, vocab]."""
        with torch.no_grad(), answer_logits(base, self.teacher) as logits:
            return logits

    def losses(self, logits: Tensor, rows: Rows, reference: Tensor | None) -> Tensor:
        """See Lesson.losses; KL in nats a token."""
        assert reference is not None
        places = torch.tensor(self.places, device=logits.device)
        student = logits[torch.isin(rows.of_row, places)]
        return distillation_kl(student, reference, self.teacher)

    def to(self, device: torch.device) -> TeacherLesson:
        """See Lesson.to."""
        return replace(self, teacher=self.teacher.to(device))


class Objective(ABC):
    """One thing that rows of a run learn from."""

    def num_swapped(self, step: int) -> int:
        """Rows of each task of a step that take description and answer of the step's next task."""
        return 0

    @abstractmethod
    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """What it teaches rows that run together; None where it teaches none of them."""


@final
@dataclass(frozen=True)
class AnswerObjective(Objective):
    """Rows that are not swapped learn their answers."""

    weight: float = 1.0
    label_smoothing: float = 0.0

    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """See Objective.lesson."""
        places = tuple(place for place, row in enumerate(rows) if not row.is_swapped)
        return AnswerLesson(places, self.weight, self.label_smoothing) if places else None


@final
@dataclass(frozen=True)
class DistillationObjective(Objective):
    """Rows that are not swapped learn from the base that reads their description."""

    weight: float

    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """See Objective.lesson."""
        return _teach(rows, encoder, self.weight, swapped=False)


@final
@dataclass(frozen=True)
class SwappedTaskObjective(Objective):
    """Some rows get another task's description and answer, and learn from the base that reads it.

    The input of such a row tells nothing of the task, and its right answer the teacher alone knows.
    examples: such rows of each task of a step; after: steps before the first with such rows
    """

    weight: float
    examples: int
    after: int = 0

    def num_swapped(self, step: int) -> int:
        """See Objective.num_swapped."""
        return self.examples if step >= self.after else 0

    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """See Objective.lesson."""
        return _teach(rows, encoder, self.weight, swapped=True)


def make_objectives(section: ObjectiveSection, data: DataSection) -> list[Objective]:
    """The objectives that a configuration asks for."""
    objectives: list[Objective] = []
    if section.ce_weight:
        objectives.append(AnswerObjective(section.ce_weight, section.label_smoothing))
    if section.distill_weight:
        objectives.append(DistillationObjective(section.distill_weight))
    if data.swapped_examples:
        objectives.append(
            SwappedTaskObjective(section.swapped_weight, data.swapped_examples, data.swapped_after)
        )
    return objectives


def _teach(
    rows: Sequence[LearnedRow], encoder: RowEncoder, weight: float, *, swapped: bool
) -> Lesson | None:
    """A lesson by the base for the rows that are swapped, or for those that are not."""
    places = tuple(place for place, row in enumerate(rows) if row.is_swapped == swapped)
    if not places:
        return None
    prompts = [(rows[p].input, rows[p].answer, rows[p].description) for p in places]
    return TeacherLesson(places, weight, encoder.join(prompts))
