"""The rows of a step: as parts that run through the base together, each a function of the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from text_to_lora.errors import ConfigError
from text_to_lora.inference.rows import Rows
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.training.encoding import RowEncoder, TextEmbeddings
from text_to_lora.training.objectives import LearnedRow, Lesson, Objective


@dataclass(frozen=True)
class Part:
    """Rows that run through the base at once.

    adapters: which adapter of the batch each row uses
    task_names: task of each row, for messages
    lessons: what the rows learn; noise_seeds: of each row's noise; both for training alone
    """

    rows: Rows
    adapters: tuple[int, ...]
    task_names: tuple[str, ...]
    lessons: tuple[Lesson, ...] = ()
    noise_seeds: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Part:
        """The same rows on another device."""
        lessons = tuple(lesson.to(device) for lesson in self.lessons)
        return replace(self, rows=self.rows.to(device), lessons=lessons)


@dataclass(frozen=True)
class Batch:
    """The rows of one step that a process runs.

    parts: its rows, those of like length together
    embeddings: task embeddings of the distinct texts of the whole step, [adapters, embedding_dim]
    texts: those texts
    total_rows: rows of the whole step, over all processes
    seed: of the dropout of the whole step
    """

    parts: tuple[Part, ...]
    embeddings: Tensor
    texts: tuple[str, ...]
    total_rows: int
    seed: int = 0

    @property
    def size(self) -> int:
        """Tokens without padding."""
        return sum(len(part.rows.tokens) for part in self.parts)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        parts = tuple(part.to(device) for part in self.parts)
        return replace(self, parts=parts, embeddings=self.embeddings.to(device))


class TrainingBatches:
    """The batches of a process by step; each depends on (seed, step) and the process alone.

    objectives: what the rows learn from; parts: in how many parts a process runs its rows of a step
    process, processes: this process and how many there are

    Raises ConfigError when a step has fewer rows than there are processes, or when an objective
    swaps tasks and no row of a task or no other task is left.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        encoder: RowEncoder,
        embeddings: TextEmbeddings,
        objectives: Sequence[Objective],
        *,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._sampler = sampler
        self._encoder = encoder
        self._embeddings = embeddings
        self._objectives = objectives
        self._parts = parts
        self._process = process
        self._processes = processes
        swapped = self._num_swapped(10**12)
        if swapped and (swapped >= sampler.examples_per_task or sampler.tasks_per_batch < 2):
            raise ConfigError(
                f"data.swapped_examples is {swapped} of data.examples_per_task="
                f"{sampler.examples_per_task} in steps of {sampler.tasks_per_batch} tasks; "
                "one row of its own for each task and two tasks a step are needed"
            )
        total = sampler.tasks_per_batch * sampler.examples_per_task
        if total < processes:
            raise ConfigError(
                f"a step has {total} rows, too few for {processes} processes; "
                "raise data.tasks_per_batch"
            )

    def __getitem__(self, step: int) -> Batch:
        rows = self._rows(step)
        texts = [self._embeddings.text(row.input, row.description) for row in rows]
        embeddings, adapters = self._embeddings.batch(texts)
        seed = self._sampler.seed
        prompts = [
            self._encoder.prompt_row(
                row.input,
                row.answer,
                row.task,
                (seed_of(f"{seed}/in-prompt/{step}/{place}") + 1) / 2**63,
            )
            for place, row in enumerate(rows)
        ]

        def make_part(places: Sequence[int]) -> Part:
            part_rows = [rows[place] for place in places]
            lessons = [each.lesson(part_rows, self._encoder) for each in self._objectives]
            return Part(
                rows=self._encoder.join(prompts[place] for place in places),
                adapters=tuple(adapters[place] for place in places),
                task_names=tuple(row.task.name for row in part_rows),
                lessons=tuple(lesson for lesson in lessons if lesson is not None),
                noise_seeds=tuple(seed_of(f"{seed}/noise/{step}/{place}") for place in places),
            )

        first, stop = (
            len(rows) * process // self._processes for process in (self._process, self._process + 1)
        )
        lengths = [self._encoder.length(prompt) for prompt in prompts[first:stop]]
        return Batch(
            parts=tuple(
                make_part([first + place for place in group])
                for group in split_by_length(lengths, self._parts)
            ),
            embeddings=embeddings,
            texts=tuple(dict.fromkeys(texts)),
            total_rows=len(rows),
            seed=seed_of(f"{seed}/dropout/{step}"),
        )

    def _rows(self, step: int) -> list[LearnedRow]:
        """The rows of a step; a swapped row has description and answer of a row of the next task."""
        drawn = self._sampler.batch(step)
        examples, swapped = self._sampler.examples_per_task, self._num_swapped(step)
        rows = []
        for place, row in enumerate(drawn):
            is_swapped = place % examples >= examples - swapped
            source = drawn[(place + examples) % len(drawn)] if is_swapped else row
            task = self._sampler.tasks[source.task_index]
            description = task.descriptions[source.description_index]
            rows.append(LearnedRow(task, row.input, source.output, description, is_swapped))
        return rows

    def _num_swapped(self, step: int) -> int:
        return max((each.num_swapped(step) for each in self._objectives), default=0)


def split_by_length(lengths: Sequence[int], parts: int) -> Iterator[list[int]]:
    """Split rows into at most `parts` lists of like length, so that little is spent on padding.

    lengths: of the rows, in tokens
    Gives the rows' places.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    count = min(parts, len(order))
    for part in range(count):
        yield order[len(order) * part // count : len(order) * (part + 1) // count]


def seed_of(text: str) -> int:
    """A seed that torch's generators take, from 0 to 2**63 - 1."""
    return int.from_bytes(sha256(text.encode()).digest()[:8]) >> 1
