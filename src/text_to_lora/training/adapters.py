"""Libraries of oracle adapters: one LoRA a task, all trained together on one frozen base."""

from __future__ import annotations

import difflib
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.managers import SyncManager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import torch
from pydantic import Field, model_validator

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.files import one_job, one_job_a_folder, read_json
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.models.base import load_base_config
from text_to_lora.tasks.task import Example, Task
from text_to_lora.training.checkpoints import RunFolder
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
from text_to_lora.training.encoding import RowEncoder, check_positions
from text_to_lora.training.joint import Job, JointTrainer
from text_to_lora.training.joint_learner import JointLearner
from text_to_lora.training.loop import Loop
from text_to_lora.training.module import SftModule
from text_to_lora.training.plots import plot_library
from text_to_lora.training.setup import load_for_training, make_spec, resolve_dtype, shared_settings
from text_to_lora.training.split import load_tasks, split_by_group
from text_to_lora.training.step_adapters import StackedAdapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STATES_OF_A_TASK: Final = 5  # weights, gradient, two moments, best weights; fp32
SELECTED_DIGIT: Final = {"training": 8, "support": 4}
"""Rows whose idx ends in this digit choose each task's best state and are not trained on; those of
9 (of a training task) and of 5 to 9 (of a held-out task) stay untouched for scores."""
MULTITASK: Final = "multitask"


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


@one_job_a_folder
def train_adapters(
    config: LibraryConfig,
    *,
    output_dir: Path | str,
    multitask: bool = False,
    resume: bool = True,
    processes: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train an adapter for every task, or one for all of them, and give the folder of the result.

    output_dir: receives `library/` and `library.png`, or `multitask/` in PEFT's form, `config.json`,
        and for every group of tasks trained together a folder of `groups/` with its history
    multitask: train one adapter on the rows that those of the library would see
    resume: go on with an interrupted run of the same settings, task by task; False deletes it first
    processes: groups trained at the same time, each with its share of the CPU's cores
    report: gets lines of progress

    Raises ConfigError when settings, data or folder cannot work, and T2LError naming tasks and step
    when a loss is not finite.
    Source: Text-to-LoRA (arXiv 2506.06105), equations 1 and 2, which trains task after task.
    """
    root = RunFolder(output_dir)
    device = _device(config.run.device)
    config = config.model_copy(update={"base": resolve_dtype(config.base, device)})
    tasks = pick_tasks(config)
    groups = _make_groups(config, root.path / "groups", tasks, device, multitask=multitask)
    root.open(config, resume=resume)
    result = root.path / (MULTITASK if multitask else "library")
    if result.exists():
        return result
    num_rows = sum(len(job.rows) for group in groups for job in group.jobs)
    report(f"{len(tasks)} tasks, {num_rows:,} rows, {len(groups)} groups")
    if processes > 1 and len(groups) > 1:
        _run_processes(groups, processes, report)
    else:
        for group in groups:
            _train_group(group, report)
    weights = LoraWeights.stack([load_library(g.path / "library").weights for g in groups])
    outcomes = [row for group in groups for row in read_json(group.path / "result.json")["entries"]]
    if multitask:
        (outcome,) = outcomes
        del outcome["task"]
        save_adapter(weights, result, provenance={**shared_settings(config), **outcome})
        return result
    entries = [
        LibraryEntry(descriptions=task.descriptions, source="trained", **outcome)
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]
    losses = [
        (entry.base_loss, entry.validation_loss)
        for entry in entries
        if entry.base_loss is not None and entry.validation_loss is not None
    ]
    if losses:
        plot_library(losses, root.path / "library.png")
    save_library(AdapterLibrary(weights, entries, training=shared_settings(config)), result)
    return result


def pick_tasks(config: LibraryConfig) -> list[Task]:
    """The tasks of a library, in its order; a smaller `count` gives the first of a larger one.

    Raises ConfigError for names that no task has, and when no task or too few are left.
    """
    data = config.data
    tasks, _ = split_by_group(load_tasks(data), data.validation_one_in)
    if data.names:
        by_name = {task.name: task for task in tasks}
        for name in data.names:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, n=1, cutoff=0)
                raise ConfigError(
                    f"data.names has {name!r}, which no task of the sources is named (or its group "
                    f"is left out by data.validation_one_in); nearest {near[0]!r}"
                )
        tasks = [by_name[name] for name in data.names]
    tasks = [
        task
        for task in sorted(tasks, key=lambda task: task.name)
        if len(task.descriptions) >= data.min_descriptions and _rows(task, selection=False)
    ]
    Random(f"{config.run.seed}/library").shuffle(tasks)
    if not tasks or len(tasks) < (data.count or 1):
        raise ConfigError(
            f"data.count is {data.count or 'all'}, but {len(tasks)} tasks have "
            f"data.min_descriptions={data.min_descriptions} and rows to train on; lower either"
        )
    return tasks[: data.count]


def make_job(task: Task, config: LibraryConfig) -> Job:
    """The rows of a task's adapter: whole shuffled passes, cut off at the limits of the run.

    They depend on the seed and the task alone, not on which other tasks there are.
    """
    run = config.run
    pool = _rows(task, selection=False, selected=config.data.eval_rows > 0)
    rng = Random(f"{run.seed}/rows/{task.name}")
    limit = min(run.rows, max(1, int(run.epochs * len(pool))))
    rows: list[tuple[str, str]] = []
    while len(rows) < limit:
        rows += [(e.input, rng.choice(e.outputs)) for e in rng.sample(pool, len(pool))]
    selection = _rows(task, selection=True)[: config.data.eval_rows]
    return Job(
        name=task.name,
        rows=rows[:limit],
        selection=[(example.input, example.outputs[0]) for example in selection],
        batch_size=run.batch_size,
        eval_every=run.eval_every,
    )


def multitask_job(tasks: Sequence[Task], config: LibraryConfig) -> Job:
    """The rows of all tasks' adapters, mixed, for one adapter."""
    run = config.run
    jobs = [make_job(task, config) for task in tasks]
    rows = [row for job in jobs for row in job.rows]
    Random(f"{run.seed}/rows/{MULTITASK}").shuffle(rows)
    # As many validations as a task has, each over a few rows of every task.
    validations = max(math.ceil(job.num_steps / job.eval_every) for job in jobs)
    steps = math.ceil(len(rows) / run.multitask_batch_size)
    few = math.ceil(config.data.eval_rows / 8)
    return Job(
        name=MULTITASK,
        rows=rows,
        selection=[row for job in jobs for row in job.selection[:few]],
        batch_size=run.multitask_batch_size,
        eval_every=math.ceil(steps / validations),
    )


def _rows(task: Task, *, selection: bool, selected: bool = True) -> tuple[Example, ...]:
    """The examples of a task that its adapter is trained on, or those that choose its state.

    selected: rows are set aside for that choice at all
    """
    kind = "training" if task.split == "train" else "support"
    pool = task.training() if kind == "training" else task.support()
    digit = SELECTED_DIGIT[kind]
    return tuple(e for e in pool if (selected and e.idx % 10 == digit) == selection)


@dataclass(frozen=True)
class _Group:
    """Tasks that are trained together, with the folder of their run."""

    config: LibraryConfig
    path: Path
    jobs: Sequence[Job]
    device: torch.device


def _make_groups(
    config: LibraryConfig,
    folder: Path,
    tasks: Sequence[Task],
    device: torch.device,
    *,
    multitask: bool,
) -> list[_Group]:
    """The groups of a run, each with as many tasks as the memory holds; a job for each task."""
    if multitask:
        return [_Group(config, folder / MULTITASK, [multitask_job(tasks, config)], device)]
    base_config = load_base_config(config.base.name, revision=config.base.revision)
    numbers = make_spec(config.base, config.adapter, base_config).num_parameters
    fitting = int(config.run.memory_gib * 2**30 / (4 * STATES_OF_A_TASK * numbers))
    size = config.run.tasks_at_once or max(1, fitting)
    jobs = [make_job(task, config) for task in tasks]
    return [
        _Group(config, folder / f"{start // size:04d}", jobs[start : start + size], device)
        for start in range(0, len(jobs), size)
    ]


def _train_group(group: _Group, report: Callable[[str], None]) -> None:
    """Train the tasks of one group to the end, from its newest state; a finished group is left."""
    with one_job(group.path):
        folder = RunFolder(group.path)
        folder.open(group.config, resume=True)
        if folder.result is not None:
            return
        run = group.config.run
        base, tokenizer = load_for_training(group.config.base, group.device)
        learner = make_learner(group.config, base, tokenizer, group.jobs)
        Loop(
            learner,
            folder,
            log_every=run.eval_every,
            save_every=run.save_every,
            report=lambda line: report(f"{group.path.name}: {line}"),
        ).run()
        entries = [_outcome(learner, place) for place in range(len(group.jobs))]
        library = AdapterLibrary(
            learner.trainer.best().to(device="cpu"),
            [LibraryEntry(task=entry["task"]) for entry in entries],
        )
        save_library(library, folder.path / "library", overwrite=True)
        folder.finish({"entries": entries})


def make_learner(
    config: LibraryConfig,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    jobs: Sequence[Job],
) -> JointLearner:
    """What trains fresh adapters for these jobs.

    Raises ConfigError when the rows do not fit the base's positions, SpecError when the base has no
    such targets.
    """
    data, run, optimizer = config.data, config.run, config.optimizer
    check_positions((data.max_prompt_tokens, data.max_answer_tokens), base.config)
    spec = make_spec(config.base, config.adapter, base.config)
    generator = torch.Generator().manual_seed(run.seed)
    if len(jobs) == 1 and jobs[0].name == MULTITASK and run.multitask_lr is not None:
        optimizer = optimizer.model_copy(update={"lr": run.multitask_lr})
    trainer = JointTrainer(
        SftModule(
            StackedAdapters(spec, len(jobs), generator).to(base.device),
            base,
            label_smoothing=config.objective.label_smoothing,
            neftune_alpha=config.objective.neftune_alpha,
            gradient_checkpointing=config.base.gradient_checkpointing,
        ),
        jobs,
        RowEncoder(
            tokenizer,
            max_prompt_tokens=data.max_prompt_tokens,
            max_answer_tokens=data.max_answer_tokens,
        ),
        optimizer,
        tokens_per_pass=run.tokens_per_pass,
        seed=run.seed,
    )
    return JointLearner(
        trainer,
        [[place] for place in range(len(jobs))],
        is_due=lambda place, step: (
            step % jobs[place].eval_every == 0 or step == jobs[place].num_steps
        ),
        patience=run.patience,
    )


def _outcome(learner: JointLearner, place: int) -> dict[str, Any]:
    """What came of a job, as fields of a library's entry; without selection rows without losses."""
    job, best = learner.trainer.jobs[place], learner.best(place)
    return {
        "task": job.name,
        "validation_loss": best.loss if job.selection else None,
        "base_loss": learner.base_marks[place].loss if job.selection else None,
        "steps": best.step,
        "rows": min(len(job.rows), learner.trainer.steps[place] * job.batch_size),
    }


def _run_processes(groups: Sequence[_Group], processes: int, report: Callable[[str], None]) -> None:
    """Train groups in processes of their own, `processes` at a time.

    Raises T2LError when one of the processes is killed.
    """
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    manager = SyncManager(ctx=context)
    manager.start(_end_with_parent)
    pool = ProcessPoolExecutor(processes, context, initializer=_end_with_parent)
    with manager, pool:
        lines: Any = manager.Queue()
        waiting = {pool.submit(_work, group, threads, lines) for group in groups}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5)
                while not lines.empty():
                    report(lines.get())
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise T2LError(
                f"a process of the {processes} that train was killed, as a system without free "
                "memory does; repeat the command to go on, with fewer --processes if memory was short"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, however it ended."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(group: _Group, threads: int, lines: Any) -> None:
    """Train a group in a process of its own."""
    torch.set_num_threads(threads)
    _train_group(group, lines.put)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(name)
