"""LibraryConfig: everything that decides a run that trains a library of oracle adapters."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from text_to_lora.training.config import (
    AdamWSection,
    AdapterSection,
    BaseSection,
    Count,
    Natural,
    NotNegative,
    Positive,
    Recipe,
    Section,
    SourcesSection,
)


class LibraryTasks(SourcesSection):
    """Which tasks get an adapter, and their rows."""

    validation_one_in: Natural = 16
    """one source group in this many is left out whole, by hash of its name, as supervised training
    does with the same number; 0 leaves none out"""
    min_descriptions: Natural = 1
    """tasks with fewer descriptions are left out"""
    count: Count | None = None
    """tasks, the first in an order drawn from run.seed; null for all"""
    names: tuple[str, ...] = ()
    """tasks by name; empty for all"""
    max_prompt_tokens: Count = 256
    """tokens of format and input; longer inputs lose their left"""
    max_answer_tokens: Count = 64
    """tokens of the answer; longer ones lose their right"""
    eval_rows: Natural = 32
    """rows of each task that choose its best state; 0 keeps the last state of all"""


class LibraryObjective(Section):
    """The loss: cross-entropy, mean over the answer tokens of a row, then over the rows of a task."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the target spread over the vocabulary, in training"""
    neftune_alpha: NotNegative = 0.0
    """noise on input embeddings in training: uniform to ± alpha / sqrt(tokens · hidden)"""


class LibraryRun(Section):
    """Length, cadence and size of the run."""

    rows: Count = 800
    """training rows that a task sees, at most"""
    epochs: Positive = 3.0
    """times that a task sees each of its rows, at most"""
    batch_size: Count = 8
    """rows of a task in one of its steps"""
    multitask_batch_size: Count = 32
    """rows of a step of the multi-task adapter"""
    multitask_lr: Positive | None = None
    """peak learning rate of the multi-task adapter; null for optimizer.lr"""
    eval_every: Count = 10
    """steps of a task between validations; the multi-task adapter is validated as many times"""
    patience: Count | None = 3
    """validations without a better loss after which a task stops; null never stops early"""
    tasks_at_once: Count | None = None
    """tasks trained together; null for as many as `memory_gib` holds"""
    memory_gib: Positive = 4.0
    """weights, gradients, moments and best states of the tasks trained together, in GiB"""
    tokens_per_pass: Count = 2048
    """tokens that run through the base at once, with padding where rows are padded"""
    save_every: Count = 10
    """steps between states to resume from"""
    seed: int = 42
    """of adapters, order of tasks, rows and noise"""
    device: Literal["auto", "cpu"] = "auto"
    """an accelerator where there is one, or the CPU"""


class LibraryConfig(Recipe):
    """A run that trains a library, or its multi-task adapter; stored beside what it made."""

    verb = "adapters"

    base: BaseSection
    adapter: AdapterSection = AdapterSection()
    data: LibraryTasks = LibraryTasks()
    optimizer: AdamWSection = AdamWSection(lr=8e-5, warmup=0.1, weight_decay=1e-3)
    objective: LibraryObjective = LibraryObjective()
    run: LibraryRun = LibraryRun()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len(set(self.data.names)) < len(self.data.names):
            raise ValueError("data.names has a name twice; leave one out")
        return self
