"""What rows learn from: a run has a list of objectives, and each teaches some rows a lesson."""

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
from text_to_lora.training.losses import answer_losses, teacher_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LearnedRow:
    """A row of a step; its description and answer are of `task`, its input too unless swapped."""

    task: Task
    input: str
    answer: str
    description: str
    is_swapped: bool = False


@dataclass(frozen=True)
class Lesson:
    """What some of the rows that run through the base together learn.

    places: of these rows; weight: factor of their losses
    label_smoothing: share of the target spread over the vocabulary, without a teacher
    teacher: the same rows with their description in the prompt, which the base without adapters
        answers; None to learn the answers themselves
    """

    places: tuple[int, ...]
    weight: float = 1.0
    label_smoothing: float = 0.0
    teacher: Rows | None = None

    def reference(self, base: PreTrainedModel) -> Tensor | None:
        """The teacher's logits, [answer tokens of the places, vocab]; None without one."""
        if self.teacher is None:
            return None
        with torch.no_grad(), answer_logits(base, self.teacher) as logits:
            return logits

    def losses(self, logits: Tensor, rows: Rows, reference: Tensor | None) -> Tensor:
        """The weighted loss of each of its rows, in nats a token, [places].

        logits: of the answers of all rows, [answer tokens, vocab]; reference: by `reference`
        """
        if self.teacher is None or reference is None:
            losses = answer_losses(logits, rows, label_smoothing=self.label_smoothing)
            return self.weight * losses[list(self.places)]
        places = torch.tensor(self.places, device=logits.device)
        student = logits[torch.isin(rows.of_row, places)]
        return self.weight * teacher_losses(student, reference, self.teacher)

    def to(self, device: torch.device) -> Lesson:
        """The same lesson on another device."""
        return replace(self, teacher=self.teacher and self.teacher.to(device))


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
    """Rows that are not swapped learn their answers by cross-entropy."""

    weight: float = 1.0
    label_smoothing: float = 0.0

    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """See Objective.lesson."""
        places = tuple(place for place, row in enumerate(rows) if not row.is_swapped)
        return Lesson(places, self.weight, self.label_smoothing) if places else None


@final
@dataclass(frozen=True)
class SwappedTaskObjective(Objective):
    """Some rows get another task's description and answer, and learn from the base that reads it.

    The input of such a row tells nothing of the task, and its right answer the teacher alone knows.
    examples: such rows of each task of a step; after: steps before the first with such rows
    """

    weight: float = 1.0
    examples: int = 1
    after: int = 0

    def num_swapped(self, step: int) -> int:
        """See Objective.num_swapped."""
        return self.examples if step >= self.after else 0

    def lesson(self, rows: Sequence[LearnedRow], encoder: RowEncoder) -> Lesson | None:
        """See Objective.lesson."""
        places = tuple(place for place, row in enumerate(rows) if row.is_swapped)
        prompts = [(rows[p].input, rows[p].answer, rows[p].description) for p in places]
        return Lesson(places, self.weight, teacher=encoder.join(prompts)) if places else None


def make_objectives(section: ObjectiveSection, data: DataSection) -> list[Objective]:
    """The objectives that a configuration asks for."""
    objectives: list[Objective] = [AnswerObjective(section.ce_weight, section.label_smoothing)]
    if data.swapped_examples:
        examples, after = data.swapped_examples, data.swapped_after
        objectives.append(SwappedTaskObjective(section.swapped_weight, examples, after))
    return objectives
