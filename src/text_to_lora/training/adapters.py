"""Libraries of oracle adapters: one LoRA a task, all trained together on one frozen base."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.errors import ConfigError
from text_to_lora.files import one_job_a_folder, read_json, write_json
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
    ObjectiveSection,
    Positive,
    Recipe,
    Section,
    SourcesSection,
)
from text_to_lora.training.data import (
    RowEncoder,
    check_positions,
    load_tasks,
    split_by_group,
)
from text_to_lora.training.joint import StackedAdapters
from text_to_lora.training.joint_trainer import Job, JointTrainer
from text_to_lora.training.module import SftModule
from text_to_lora.training.plots import plot_library
from text_to_lora.training.sft import load_for_training, make_spec, resolve_dtype, shared_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SELECTED_DIGIT: Final = {"training": 8, "support": 4}
"""Rows whose idx ends in this digit choose each task's best state and are not trained on; those of
9 (of a training task) and of 5 to 9 (of a held-out task) stay untouched for scores."""
STATES_OF_A_TASK: Final = 5  # weights, gradient, two moments, best weights; fp32
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
    report: Callable[[str], None] | None = None,
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
    spec = make_spec(
        config.base,
        config.adapter,
        load_base_config(config.base.name, revision=config.base.revision),
    )
    root.open(config, resume=resume)
    result = root.path / (MULTITASK if multitask else "library")
    if result.exists():
        return result
    tell = report or _silent
    groups: dict[str, list[Job]]
    if multitask:
        groups = {MULTITASK: [multitask_job(tasks, config)]}
    else:
        size = config.run.tasks_at_once or _fitting(config.run.memory_gib, spec.num_parameters)
        jobs = [make_job(task, config) for task in tasks]
        groups = {f"{at // size:04d}": jobs[at : at + size] for at in range(0, len(jobs), size)}
    tell(
        f"{len(tasks)} tasks, {sum(len(job.rows) for jobs in groups.values() for job in jobs):,} "
        f"rows, {len(groups)} groups"
    )
    work = [(config, root.path / "groups" / name, jobs, device) for name, jobs in groups.items()]
    if processes > 1 and len(work) > 1:
        _run_processes(work, processes, tell)
    else:
        for arguments in work:
            _train_group(*arguments, report=tell)
    outcomes = [_Outcome.read(path) for _, path, _, _ in work]
    weights = LoraWeights.stack([outcome.weights for outcome in outcomes])
    training = shared_settings(config)
    if multitask:
        save_adapter(weights, result, provenance={**training, **outcomes[0].entries[MULTITASK]})
    else:
        found = {name: entry for outcome in outcomes for name, entry in outcome.entries.items()}
        entries = [
            LibraryEntry(
                task=task.name, descriptions=task.descriptions, source="trained", **found[task.name]
            )
            for task in tasks
        ]
        losses = [
            (entry.base_loss, entry.validation_loss)
            for entry in entries
            if entry.base_loss is not None and entry.validation_loss is not None
        ]
        if losses:
            plot_library(losses, root.path / "library.png")
        save_library(AdapterLibrary(weights, entries, training=training), result)
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


@dataclass(frozen=True)
class _Outcome:
    """What training a group gave: adapters, and the fields of their entries by task."""

    weights: LoraWeights
    entries: dict[str, dict[str, Any]]

    def write(self, folder: RunFolder) -> None:
        """Write the group's result."""
        names = list(self.entries)
        library = AdapterLibrary(self.weights, [LibraryEntry(task=name) for name in names])
        save_library(library, folder.path / "library", overwrite=True)
        folder.finish({"entries": [{"task": name, **self.entries[name]} for name in names]})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        rows = read_json(path / "result.json")["entries"]
        entries = {row.pop("task"): row for row in rows}
        return cls(load_library(path / "library").weights, entries)


def _train_group(
    config: LibraryConfig,
    path: Path,
    jobs: Sequence[Job],
    device: torch.device,
    *,
    report: Callable[[str], None],
) -> None:
    """Train the tasks of one group to the end, from its newest state; a finished group is left."""
    folder = RunFolder(path)
    folder.open(config, resume=True)
    if folder.result is not None:
        return
    base, tokenizer = load_for_training(config.base, device)
    trainer = make_trainer(config, base, tokenizer, jobs)
    checkpoint = folder.newest_checkpoint()
    seconds, lines = 0.0, []
    if checkpoint is not None:
        trainer.load_state_dict(load_file(checkpoint / "state.safetensors", device=str(device)))
        lines = read_json(checkpoint / "history.json")["lines"]
        seconds = lines[-1]["seconds"] if lines else 0.0
        report(f"{path.name}: resuming after step {max(trainer.steps)}")
    else:
        trainer.base_loss.copy_(trainer.validate(range(len(jobs))))
    folder.write_history(lines)
    began = time.monotonic() - seconds
    while live := trainer.live:
        loss, tokens = trainer.step(live)
        steps = trainer.steps
        due = [
            place
            for place in live
            if steps[place] % jobs[place].eval_every == 0 or steps[place] == jobs[place].num_steps
        ]
        if due:
            trainer.select(due)
        step, seconds = max(steps), time.monotonic() - began
        last_step = max(job.num_steps for job in jobs)
        line = {
            "step": step,
            "tasks": len(live),
            "loss": loss,
            "tokens": tokens,
            "seconds": seconds,
        }
        if due:
            line["best_loss"] = float(trainer.best_loss.nanmean())
        lines.append(line)
        folder.add_history(line)
        if due or step == 1:
            report(
                f"{path.name}: step {step}/{last_step}, {len(live)} of {len(jobs)} tasks, loss "
                f"{loss:.4f}, selection {float(trainer.best_loss.nanmean()):.4f} (base "
                f"{float(trainer.base_loss.nanmean()):.4f}), "
                f"{sum(item['tokens'] for item in lines) / seconds:.0f} tokens/s, at most "
                f"{(last_step - step) * seconds / step / 60:.1f} min left"
            )
        if step % config.run.save_every == 0:
            with folder.checkpoint(step, keep=1) as saved:
                save_file(trainer.state_dict(), saved / "state.safetensors")
                write_json(saved / "history.json", {"lines": lines})
    entries = {
        job.name: {
            "validation_loss": _number(trainer.best_loss[place]),
            "base_loss": _number(trainer.base_loss[place]),
            "steps": int(trainer.best_step[place]),
            "rows": sum(len(job.batch(step)) for step in range(trainer.steps[place])),
        }
        for place, job in enumerate(jobs)
    }
    _Outcome(trainer.best().to(device="cpu"), entries).write(folder)


def make_trainer(
    config: LibraryConfig,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    jobs: Sequence[Job],
) -> JointTrainer:
    """A trainer of fresh adapters for these jobs.

    Raises ConfigError when the rows do not fit the base's positions, SpecError when the base has no
    such targets.
    """
    data, run, optimizer = config.data, config.run, config.optimizer
    check_positions((data.max_prompt_tokens, data.max_answer_tokens), base.config)
    spec = make_spec(config.base, config.adapter, base.config)
    generator = torch.Generator().manual_seed(run.seed)
    adapters = StackedAdapters(spec, len(jobs), generator).to(base.device)
    objective = ObjectiveSection(**config.objective.model_dump(), weight_penalty=0.0)
    checkpointing = config.base.gradient_checkpointing
    module = SftModule(adapters, base, objective, gradient_checkpointing=checkpointing)
    encoder = RowEncoder(
        tokenizer,
        max_prompt_tokens=data.max_prompt_tokens,
        max_description_tokens=0,
        max_answer_tokens=data.max_answer_tokens,
    )
    if len(jobs) == 1 and jobs[0].name == MULTITASK and run.multitask_lr is not None:
        optimizer = optimizer.model_copy(update={"lr": run.multitask_lr})
    return JointTrainer(
        module,
        jobs,
        encoder,
        optimizer,
        tokens_per_pass=run.tokens_per_pass,
        patience=run.patience,
        seed=run.seed,
    )


def _rows(task: Task, *, selection: bool, selected: bool = True) -> tuple[Example, ...]:
    """The examples of a task that its adapter is trained on, or those that choose its state.

    selected: rows are set aside for that choice at all
    """
    kind = "training" if task.split == "train" else "support"
    pool = task.training() if kind == "training" else task.support()
    digit = SELECTED_DIGIT[kind]
    return tuple(e for e in pool if (selected and e.idx % 10 == digit) == selection)


def _run_processes(
    work: Sequence[tuple[LibraryConfig, Path, Sequence[Job], torch.device]],
    processes: int,
    report: Callable[[str], None],
) -> None:
    """Train groups in processes of their own, `processes` at a time."""
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        lines: Any = manager.Queue()
        waiting = {pool.submit(_work, arguments, threads, lines) for arguments in work}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5)
                while not lines.empty():
                    report(lines.get())
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _work(
    arguments: tuple[LibraryConfig, Path, Sequence[Job], torch.device], threads: int, lines: Any
) -> None:
    """Train a group in a process of its own."""
    torch.set_num_threads(threads)
    _train_group(*arguments, report=lines.put)


def _fitting(memory_gib: float, numbers: int) -> int:
    """Tasks whose training state fits the memory; at least one."""
    return max(1, int(memory_gib * 2**30 / (4 * STATES_OF_A_TASK * numbers)))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device(name)


def _number(value: Tensor) -> float | None:
    """A number for JSON; None for the loss of a task without selection rows."""
    return None if value.isnan() else float(value)


def _silent(line: str) -> None:
    """Report nothing."""
