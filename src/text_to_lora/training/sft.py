"""Supervised training: task rows through the frozen base teach the hypernetwork."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState

from text_to_lora.baselines.fixed import StaticAdapter
from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.encoders.load import load_encoder
from text_to_lora.errors import T2LWarning
from text_to_lora.hypernet.checkpoint import save_hypernet
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.serving.base import load_base
from text_to_lora.serving.sources import EMBEDDED, EMBEDDED_BASE
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import RunConfig
from text_to_lora.training.data import (
    Descriptions,
    RowEncoder,
    TaskSplit,
    TrainingBatches,
    check_context,
    load_tasks,
    warn_long,
)
from text_to_lora.training.module import SftModule
from text_to_lora.training.trainer import SftTrainer, check_selection, make_arguments
from text_to_lora.training.validation import make_sets

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def train_sft(
    config: RunConfig,
    *,
    output_dir: Path | str,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
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
    folder = RunFolder(output_dir)
    arguments = make_arguments(config, folder.path)
    device, main = arguments.device, arguments.process_index == 0
    config = _resolve_dtype(config, device)
    if main:
        folder.open(config, resume=resume)
    PartialState().wait_for_everyone()
    result = folder.path / ("hypernet" if config.hypernet.kind == "text" else "adapter")
    if folder.result is not None:
        return result

    tell = report if report is not None and main else _silent
    base, tokenizer = load_base(
        config.base.name,
        revision=config.base.revision,
        device=device,
        dtype=getattr(torch, config.base.dtype),
    )
    if config.base.attention is not None:
        base.set_attn_implementation(config.base.attention)
    distill = config.objective.distill_weight > 0
    described = distill or config.data.in_prompt or config.data.swapped_examples > 0
    check_context(config.data, base.config, described=described)
    split = TaskSplit.make(load_tasks(config.data), config.data)
    counts = {name: len(tasks) for name, tasks in split.evaluation.items()}
    tell(f"{len(split.training)} tasks to train on, validation on {counts}")
    descriptions, encoder = _embed(config, split, folder.path, device)
    hypernet = _make_hypernet(config, base.config, encoder.embedding_dim)
    tell(f"{sum(p.numel() for p in hypernet.parameters()):,} parameters to train")

    rows = RowEncoder(
        tokenizer,
        description_in="user" if config.data.in_prompt else "system",  # the paper's protocol
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_description_tokens=config.data.max_description_tokens,
        max_answer_tokens=config.data.max_answer_tokens,
    )
    shuffle = config.hypernet.kind == "text"
    sets = make_sets(split.evaluation, config.data, rows, descriptions, shuffle=shuffle)
    check_selection(config, sets)
    sampler = TaskSampler(
        split.training,
        tasks_per_batch=config.data.tasks_per_batch,
        examples_per_task=config.data.examples_per_task,
        family_share=config.data.family_share,
        seed=config.run.seed,
    )
    batches = TrainingBatches(
        sampler,
        rows,
        descriptions,
        steps=config.run.steps,
        parts=config.optimizer.accumulation,
        process=arguments.process_index,
        processes=arguments.world_size,
        in_prompt=config.data.in_prompt,
        distill=distill,
        swapped=config.data.swapped_examples,
        swapped_after=config.data.swapped_after,
    )
    checkpointing = config.base.gradient_checkpointing
    module = SftModule(hypernet, base, config.objective, gradient_checkpointing=checkpointing)

    def save(path: Path) -> None:
        """Write the weights as they are."""
        training = shared_settings(config)
        if isinstance(hypernet, StaticAdapter):
            save_adapter(hypernet.adapter(), path, provenance=training, overwrite=True)
        else:
            save_hypernet(path, hypernet, encoder, training=training, overwrite=True)

    trainer = SftTrainer(
        module,
        arguments,
        config,
        folder,
        batches=batches,
        sets=sets,
        save_best=lambda: save(result),
        report=tell,
    )
    trainer.run()
    if main:
        save(folder.path / "last")
        if not sets:
            save(result)
        folder.finish(trainer.summary())
    PartialState().wait_for_everyone()
    return result


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """A run's settings as they are stored beside weights: folders by their last name alone."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shorten(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [shorten(item) for item in value]
        return value.name if isinstance(value, Path) else value

    settings: dict[str, Any] = shorten(config.model_dump())
    settings["base"]["name"] = _base_name(config)
    return settings


def _resolve_dtype(config: RunConfig, device: torch.device) -> RunConfig:
    """Settle base.dtype "auto", so that a run goes on in the dtype that it began in."""
    if config.base.dtype != "auto":
        return config
    dtype = "bfloat16" if has_fast_product(torch.bfloat16, device) else "float32"
    return config.model_copy(update={"base": config.base.model_copy(update={"dtype": dtype})})


def _embed(
    config: RunConfig, split: TaskSplit, folder: Path, device: torch.device
) -> tuple[Descriptions, EncoderConfig]:
    """Embed every description once; the encoder's weights are free again afterwards."""
    encoder = load_encoder(
        config.encoder.name,
        device=device,
        revision=config.encoder.revision,
        cache_dir=config.encoder.cache_dir or folder / "embeddings",
    )
    tasks = [*split.training, *(task for part in split.evaluation.values() for task in part)]
    with warnings.catch_warnings():
        # One for each text; `warn_long` sums them up.
        warnings.filterwarnings("ignore", "the encoder read", T2LWarning)
        descriptions = Descriptions.of(tasks, encoder.encode)
    texts = list(dict.fromkeys(text for task in tasks for text in task.descriptions))
    warn_long(texts, encoder.count_tokens(texts), encoder.config.max_tokens)
    return descriptions, encoder.config


def _make_hypernet(
    config: RunConfig, base_config: PreTrainedConfig, embedding_dim: int
) -> Hypernetwork | StaticAdapter:
    spec = LoraSpec.from_config(
        base_config,
        targets=config.adapter.targets,
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        rslora=config.adapter.rslora,
        layers=config.adapter.layers,
        name=_base_name(config),
        revision=config.base.revision,
    )
    generator = torch.Generator().manual_seed(config.run.seed)
    if config.hypernet.kind == "static":
        return StaticAdapter(spec, generator)
    sizes = config.hypernet.model_dump(exclude={"kind"})
    return Hypernetwork.from_config(
        HypernetConfig(embedding_dim=embedding_dim, **sizes), spec, generator
    )


def _base_name(config: RunConfig) -> str:
    """The name under which adapters and hypernetwork know the base."""
    name = EMBEDDED_BASE if config.base.name == EMBEDDED else config.base.name
    return config.base.alias or name


def _silent(line: str) -> None:
    """Report nothing."""
