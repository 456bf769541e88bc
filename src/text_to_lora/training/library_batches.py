"""Adapters of a library as batches: task embeddings, and the factors that they should give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.encoders.one_hot import OneHotEncoder
from text_to_lora.errors import ConfigError, list_some
from text_to_lora.hypernet.heads import Factors
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.training.batches import seed_of
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from text_to_lora.training.setup import embed_texts


@dataclass(frozen=True)
class TaskEmbeddings:
    """The embeddings that stand for each task of a library.

    rows: of all tasks one after another, [rows, embedding_dim]
    texts: what each row is the embedding of: a description, or the name of a task
    starts, counts: first row of each task and how many it has, both [tasks]
    encoder: that made them
    """

    rows: Tensor
    texts: tuple[str, ...]
    starts: Tensor
    counts: Tensor
    encoder: EncoderConfig

    def first(self) -> Tensor:
        """The first embedding of each task, [tasks, embedding_dim]."""
        return self.rows[self.starts]

    def first_texts(self) -> list[str]:
        """The text of the first embedding of each task."""
        return [self.texts[row] for row in self.starts.tolist()]

    def draw(self, tasks: Tensor, generator: torch.Generator) -> Tensor:
        """The number of a row of each of these tasks at random, [tasks]."""
        places = torch.rand(len(tasks), generator=generator, dtype=torch.float64)
        return self.starts[tasks] + (places * self.counts[tasks]).long()


def embed_tasks(
    library: AdapterLibrary, config: ReconstructionConfig, folder: Path, device: torch.device
) -> TaskEmbeddings:
    """Embed the tasks of a library by what `config.conditioning` takes for them.

    folder: keeps the embeddings of descriptions unless `config.encoder` names another

    Raises ConfigError naming the tasks without descriptions where descriptions are asked for.
    """
    tasks = len(library)
    if config.conditioning.kind != "text":
        encoder = OneHotEncoder(library.names)
        ones = torch.ones(tasks, dtype=torch.long)
        names = tuple(library.names)
        return TaskEmbeddings(torch.eye(tasks), names, torch.arange(tasks), ones, encoder.config)
    limit = config.data.descriptions_per_task
    texts = [entry.descriptions[:limit] for entry in library.entries]
    if silent := [entry.task for entry in library.entries if not entry.descriptions]:
        raise ConfigError(
            f"{len(silent)} of {tasks} tasks have no description: {list_some(silent)}; add descriptions "
            "to the library, or set conditioning.kind to one-hot"
        )
    counts = torch.tensor([len(of_task) for of_task in texts])
    flat = [text for of_task in texts for text in of_task]
    rows, config_of_encoder = embed_texts(config.encoder, flat, folder, device)
    starts = counts.cumsum(0) - counts
    return TaskEmbeddings(rows, tuple(flat), starts, counts, config_of_encoder)


@dataclass(frozen=True)
class TaskBatch:
    """The adapters of one step that a process predicts.

    embeddings: one for each adapter, [tasks, embedding_dim]
    a, b: the adapters, as in LoraWeights, fp32
    names: gives the tasks' names; share: of the step's adapters; seed: of the dropout
    texts: gives what each embedding is of
    """

    embeddings: Tensor
    a: Factors
    b: Factors
    names: Callable[[], list[str]]
    share: float
    seed: int
    texts: Callable[[], list[str]] = list

    @property
    def size(self) -> int:
        """Adapters."""
        return len(self.embeddings)

    def to(self, device: torch.device) -> TaskBatch:
        """The same adapters on another device."""
        return replace(
            self,
            embeddings=self.embeddings.to(device),
            a={key: factor.to(device) for key, factor in self.a.items()},
            b={key: factor.to(device) for key, factor in self.b.items()},
        )


@final
class LibraryBatches:
    """The batches of a process by step; each depends on (seed, step) and the process alone.

    Every pass over the library shuffles it; adapters that do not fill a step wait for the next pass.
    A step reads its adapters from the stacked tensors by number: what Python does for it does not
    grow with their number.

    Raises ConfigError when a step has fewer adapters than there are processes.
    """

    def __init__(
        self,
        library: AdapterLibrary,
        embeddings: TaskEmbeddings,
        *,
        tasks_per_batch: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._library = library
        self._embeddings = embeddings
        self._size = min(tasks_per_batch, len(library))
        if self._size < processes:
            raise ConfigError(
                f"a step has {self._size} adapters, too few for {processes} processes; "
                "raise data.tasks_per_batch or use fewer"
            )
        self._seed = seed
        self._share = slice(
            self._size * process // processes, self._size * (process + 1) // processes
        )
        self._pass = -1
        self._order = torch.empty(0)

    def __getitem__(self, step: int) -> TaskBatch:
        tasks = self.tasks(step)[self._share]
        generator = torch.Generator().manual_seed(seed_of(f"{self._seed}/descriptions/{step}"))
        wanted = self._library.weights.map(lambda f: f.index_select(0, tasks).to(torch.float32))
        rows = self._embeddings.draw(tasks, generator)
        return TaskBatch(
            embeddings=self._embeddings.rows[rows],
            a=wanted.a,
            b=wanted.b,
            names=lambda: [self._library.entries[task].task for task in tasks.tolist()],
            share=len(tasks) / self._size,
            seed=seed_of(f"{self._seed}/dropout/{step}"),
            texts=lambda: [self._embeddings.texts[row] for row in rows.tolist()],
        )

    def tasks(self, step: int) -> Tensor:
        """The numbers of the step's adapters, over all processes, [tasks]."""
        number, place = divmod(step, len(self._library) // self._size)
        if number != self._pass:
            generator = torch.Generator().manual_seed(seed_of(f"{self._seed}/pass/{number}"))
            self._order = torch.randperm(len(self._library), generator=generator)
            self._pass = number
        return self._order[place * self._size : (place + 1) * self._size]
