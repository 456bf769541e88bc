"""Supervised training: rows of tasks through the frozen base teach a hypernetwork."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import torch

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import ConfigError
from text_to_lora.files import one_job_a_folder
from text_to_lora.hypernet.checkpoint import save_hypernet
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.tasks.task import Task
from text_to_lora.training.batches import Batch, TrainingBatches
from text_to_lora.training.config import DataSection, RunConfig
from text_to_lora.training.descent import DescentLearner, Session
from text_to_lora.training.encoding import RowEncoder, TextEmbeddings, check_positions
from text_to_lora.training.module import SftModule
from text_to_lora.training.plots import plot_history
from text_to_lora.training.setup import (
    embed_texts,
    load_for_training,
    make_hypernet,
    make_spec,
    resolve_dtype,
    shared_settings,
)
from text_to_lora.training.split import TaskSplit, load_tasks
from text_to_lora.training.step_adapters import (
    StackedAdapters,
    StepAdapters,
    TextAdapters,
    read_weights,
)
from text_to_lora.training.validation import (
    ValidationRow,
    validate,
    validation_batches,
    validation_rows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHECKED_ROWS: Final = 40  # of a task, so that hundreds of tasks take seconds


@one_job_a_folder
def train_sft(
    config: RunConfig,
    *,
    output_dir: Path | str,
    resume: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train a hypernetwork, or the multi-task adapter, and give the folder of the result.

    output_dir: receives `hypernet/` (or `adapter/`, in PEFT's form) with the weights of the lowest
        validation loss, `last/` with those of the last step, `config.json`, `history.jsonl`,
        `history.png`, `result.json`, and the newest checkpoints
    resume: go on with an interrupted run of the same settings; False deletes it first
    report: gets lines of progress

    Raises ConfigError when settings, data or folder cannot work, and T2LError naming task and step
    when a loss is not finite.
    Source: Text-to-LoRA (arXiv 2506.06105), equation 5.
    """
    session = Session(config.run, output_dir, report)
    config = config.model_copy(update={"base": resolve_dtype(config.base, session.device)})
    folder = session.folder.path
    result = folder / ("hypernet" if config.hypernet.kind == "text" else "adapter")
    if session.open(config, resume=resume):
        return result
    base, tokenizer = load_for_training(config.base, session.device)
    data = _Data.make(config, base, tokenizer, folder)
    counts = {name: len(tasks) for name, tasks in data.split.evaluation.items()}
    session.report(f"{len(data.split.training)} tasks to train on, validation on {counts}")
    if session.is_main:
        real = [task for task in data.split.training if task.category != "family"]
        _tell_findings(real, tokenizer, config.data, session.report)
    adapters, save = _make_adapters(config, base, tokenizer, data)
    session.report(f"{sum(p.numel() for p in adapters.parameters()):,} parameters to train")
    module = SftModule(
        adapters,
        base,
        label_smoothing=config.objective.label_smoothing,
        neftune_alpha=config.objective.neftune_alpha,
        penalty=config.objective.weight_penalty,
        gradient_checkpointing=config.base.gradient_checkpointing,
    )
    sets = data.validation_sets(config)
    learner = _make_learner(config, module, data, sets, session, lambda: save(result))
    loop = session.train(learner, lambda lines, path: plot_history(lines, path))
    session.finish(save, result, loop.result() | learner.best(), last_counts=not sets)
    return result


def _tell_findings(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    data: DataSection,
    report: Callable[[str], None],
) -> None:
    """Report what `t2l tasks check` finds in the tasks of a run, on a sample of their rows."""
    from text_to_lora.tasks.checking.check import Measure, check_tasks

    limits = data.max_prompt_tokens, data.max_answer_tokens, data.max_description_tokens
    for finding in check_tasks(tasks, Measure(tokenizer, *limits, rows=_CHECKED_ROWS)).findings:
        report(f"check: {finding}")


@dataclass(frozen=True)
class _Data:
    """The tasks and rows of a run, their tokens, and the embeddings of what adapters are made from.

    rows: of the validation sets, by name
    """

    split: TaskSplit
    sampler: TaskSampler
    rows: Mapping[str, list[ValidationRow]]
    encoder: RowEncoder
    embeddings: TextEmbeddings
    encoder_config: EncoderConfig

    @classmethod
    def make(
        cls,
        config: RunConfig,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
    ) -> Self:
        """Read the tasks and embed the texts that the run will see."""
        data, reads = config.data, config.hypernet.reads
        parts = [data.max_prompt_tokens, data.max_answer_tokens]
        if data.in_prompt:
            parts.append(data.max_description_tokens)
        check_positions(parts, base.config)
        split = TaskSplit.make(load_tasks(data), data)
        sampler = TaskSampler(
            split.training,
            tasks_per_batch=data.tasks_per_batch,
            examples_per_task=data.examples_per_task,
            family_share=data.family_share,
            one_description=data.one_description,
            seed=config.run.seed,
        )
        rows = validation_rows(split.evaluation, data)
        inputs = reads == "input"
        texts = _inputs(sampler, config.run.steps, rows) if inputs else _descriptions(split)
        embeddings, encoder_config = embed_texts(config.encoder, texts, folder, base.device)
        encoder = RowEncoder(
            tokenizer,
            description_in=data.definition_in if data.in_prompt else "system",
            in_prompt=data.in_prompt,
            max_prompt_tokens=data.max_prompt_tokens,
            max_description_tokens=data.max_description_tokens,
            max_answer_tokens=data.max_answer_tokens,
        )
        table = TextEmbeddings(texts, embeddings, reads)
        return cls(split, sampler, rows, encoder, table, encoder_config)

    def validation_sets(self, config: RunConfig) -> dict[str, list[Batch]]:
        """The validation sets as batches, by the figures that they give.

        Raises ConfigError when the one that picks the weights is not there, if there is to be any.
        """
        select_by = config.run.select_by
        if config.data.eval_rows and not self.rows:
            raise ConfigError(
                "no task has rows to validate on (idx % 10 == 9); add rows, or set data.eval_rows "
                "to 0"
            )
        if self.rows and select_by not in ("mean", *self.rows):
            raise ConfigError(
                f"run.select_by is {select_by!r}, but the run has only {', '.join(self.rows)}; choose "
                "one of these or 'mean', or set tasks aside by data.validation_one_in"
            )
        shuffle = config.hypernet.kind == "text" and config.hypernet.reads == "description"
        sets: dict[str, list[Batch]] = {}
        for name, rows in self.rows.items():
            sets |= validation_batches(name, rows, self.encoder, self.embeddings, shuffle=shuffle)
        return sets

    def stored_descriptions(self) -> TrainingDescriptions | None:
        """The first description of each training task; None where adapters are made from inputs."""
        if self.embeddings.reads == "input":
            return None
        texts = list(dict.fromkeys(task.descriptions[0] for task in self.split.training))
        return TrainingDescriptions.make(texts, self.embeddings.batch(texts)[0])


def _make_adapters(
    config: RunConfig, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: _Data
) -> tuple[StepAdapters, Callable[[Path], None]]:
    """What gives a step its adapters, and what writes its weights as they are."""
    spec = make_spec(config.base, config.adapter, base.config)
    training = shared_settings(config)
    if config.hypernet.kind == "static":
        adapter = StackedAdapters(spec, generator=torch.Generator().manual_seed(config.run.seed))

        def save_static(path: Path) -> None:
            save_adapter(read_weights(adapter), path, provenance=training, overwrite=True)

        return adapter, save_static
    hypernet = make_hypernet(config, spec, base.config, data.encoder_config)
    tokens = hypernet.config.tokens
    reader = None if tokens is None else TokenReader.of_model(base, tokenizer, spec, tokens)

    def save_text(path: Path) -> None:
        save_hypernet(
            path,
            hypernet,
            data.encoder_config,
            training=training,
            descriptions=data.stored_descriptions(),
            overwrite=True,
        )

    return TextAdapters(hypernet, reader), save_text


def _make_learner(
    config: RunConfig,
    module: SftModule,
    data: _Data,
    sets: Mapping[str, list[Batch]],
    session: Session,
    save_best: Callable[[], None],
) -> DescentLearner:
    """What the loop trains: the module on the run's batches, judged by its validation sets."""

    def measure() -> dict[str, float]:
        return validate(
            sets,
            lambda batch: module.measure(batch.to(session.device))[0],
            process=session.process,
            processes=session.processes,
            add=session.add,
        )

    return DescentLearner(
        module,
        TrainingBatches(
            data.sampler,
            data.encoder,
            data.embeddings,
            parts=config.optimizer.accumulation,
            process=session.process,
            processes=session.processes,
        ),
        session,
        run=config.run,
        optimizer=config.optimizer,
        unit="tokens",
        measure=measure if sets else None,
        selected=f"{config.run.select_by}_loss",
        save_best=save_best,
    )


def _descriptions(split: TaskSplit) -> list[str]:
    """Every description of the run's tasks, once."""
    tasks = [*split.training, *(task for part in split.evaluation.values() for task in part)]
    return list(dict.fromkeys(text for task in tasks for text in task.descriptions))


def _inputs(
    sampler: TaskSampler, steps: int, rows: Mapping[str, Sequence[ValidationRow]]
) -> list[str]:
    """Every input that the run will see, once; of the tasks' other rows nothing is embedded."""
    drawn = (row.input for step in range(steps) for row in sampler.batch(step))
    validated = (row.input for part in rows.values() for row in part)
    return list(dict.fromkeys((*drawn, *validated)))
