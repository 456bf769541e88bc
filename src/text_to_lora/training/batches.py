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


@dataclass(frozen=True)
class Part:
    """Rows that run through the base at once.

    adapters: which adapter of the batch each row uses
    task_names: task of each row, for messages
    noise_seeds: of each row's noise, for training alone
    """

    rows: Rows
    adapters: tuple[int, ...]
    task_names: tuple[str, ...]
    noise_seeds: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Part:
        """The same rows on another device."""
        return replace(self, rows=self.rows.to(device))


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

    parts: in how many parts a process runs its rows of a step
    process, processes: this process and how many there are

    Raises ConfigError when a step has fewer rows than there are processes.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        encoder: RowEncoder,
        embeddings: TextEmbeddings,
        *,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._sampler = sampler
        self._encoder = encoder
        self._embeddings = embeddings
        self._parts = parts
        self._process = process
        self._processes = processes
        total = sampler.tasks_per_batch * sampler.examples_per_task
        if total < processes:
            raise ConfigError(
                f"a step has {total} rows, too few for {processes} processes; "
                "raise data.tasks_per_batch"
            )

    def __getitem__(self, step: int) -> Batch:
        rows = self._sampler.batch(step)
        tasks = [self._sampler.tasks[row.task_index] for row in rows]
        texts = [
            self._embeddings.text(row.input, task.descriptions[row.description_index])
            for task, row in zip(tasks, rows, strict=True)
        ]
        embeddings, adapters = self._embeddings.batch(texts)
        seed = self._sampler.seed
        prompts = [
            self._encoder.prompt_row(
                row.input,
                row.output,
                tasks[place],
                (seed_of(f"{seed}/in-prompt/{step}/{place}") + 1) / 2**63,
            )
            for place, row in enumerate(rows)
        ]

        def make_part(places: Sequence[int]) -> Part:
            return Part(
                rows=self._encoder.join(prompts[place] for place in places),
                adapters=tuple(adapters[place] for place in places),
                task_names=tuple(tasks[place].name for place in places),
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
