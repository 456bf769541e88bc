"""Supervised training: task rows through the frozen base teach the hypernetwork."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.encoders.load import load_encoder
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.files import one_job_a_folder
from text_to_lora.hypernet.checkpoint import load_hypernet, save_hypernet
from text_to_lora.hypernet.config import HypernetConfig, TokenConfig
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.models.base import load_base
from text_to_lora.models.find import EMBEDDED, EMBEDDED_BASE
from text_to_lora.tasks.sampling import TaskSampler
from text_to_lora.tasks.task import Task
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.config import (
    AdapterSection,
    BaseSection,
    EncoderSection,
    Recipe,
    RunConfig,
    TokensSection,
)
from text_to_lora.training.data import (
    Descriptions,
    EvalRow,
    RowEncoder,
    TaskSplit,
    TrainingBatches,
    check_context,
    load_tasks,
    warn_long,
)
from text_to_lora.training.estimate import StepEstimate, tell_findings
from text_to_lora.training.module import SftModule
from text_to_lora.training.static import StaticAdapter
from text_to_lora.training.trainer import SftTrainer, check_selection, make_arguments
from text_to_lora.training.validation import make_sets, validation_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@one_job_a_folder
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
    arguments = make_arguments(
        config.run, config.optimizer, folder.path, evaluate=config.data.eval_rows > 0
    )
    device, main = arguments.device, arguments.process_index == 0
    config = config.model_copy(update={"base": resolve_dtype(config.base, device)})
    if main:
        folder.open(config, resume=resume)
    PartialState().wait_for_everyone()
    result = folder.path / ("hypernet" if config.hypernet.kind == "text" else "adapter")
    if folder.result is not None:
        return result

    tell = report if report is not None and main else _silent
    base, tokenizer = load_for_training(config.base, device)
    distill = config.objective.distill_weight > 0
    described = distill or config.data.in_prompt or config.data.swapped_examples > 0
    check_context(config.data, base.config, described=described)
    tasks = load_tasks(config.data)
    split = TaskSplit.make(tasks, config.data)
    counts = {name: len(tasks) for name, tasks in split.evaluation.items()}
    tell(f"{len(split.training)} tasks to train on, validation on {counts}")
    if tell is not _silent:
        tell_findings(tasks, tokenizer, config.data, tell)
    sampler = TaskSampler(
        split.training,
        tasks_per_batch=config.data.tasks_per_batch,
        examples_per_task=config.data.examples_per_task,
        family_share=config.data.family_share,
        one_description=config.data.one_description,
        seed=config.run.seed,
    )
    evaluated = validation_rows(split.evaluation, config.data)
    reads_input = config.hypernet.reads == "input"
    texts = _inputs(sampler, config.run.steps, evaluated) if reads_input else _descriptions(split)
    embeddings, encoder = embed_texts(config.encoder, texts, folder.path, device)
    descriptions = Descriptions(texts, embeddings)
    hypernet = _make_hypernet(config, base.config, encoder)
    tell(f"{sum(p.numel() for p in hypernet.parameters()):,} parameters to train")

    rows = RowEncoder(
        tokenizer,
        description_in=config.data.definition_in if config.data.in_prompt else "system",
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_description_tokens=config.data.max_description_tokens,
        max_answer_tokens=config.data.max_answer_tokens,
    )
    sets = make_sets(
        evaluated,
        rows,
        descriptions,
        in_prompt=config.data.in_prompt,
        shuffle=config.hypernet.kind == "text" and not reads_input,
        reads_input=reads_input,
    )
    check_selection(config, sets)
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
        reads_input=reads_input,
        swapped=config.data.swapped_examples,
        swapped_after=config.data.swapped_after,
    )
    checkpointing = config.base.gradient_checkpointing
    reader = None
    if isinstance(hypernet, Hypernetwork) and hypernet.config.tokens is not None:
        reader = TokenReader(base, tokenizer, hypernet.spec, hypernet.config.tokens)
    module = SftModule(
        hypernet, base, config.objective, gradient_checkpointing=checkpointing, reader=reader
    )

    def save(path: Path) -> None:
        """Write the weights as they are."""
        training = shared_settings(config)
        if isinstance(hypernet, StaticAdapter):
            save_adapter(hypernet.adapter(), path, provenance=training, overwrite=True)
        else:
            save_hypernet(
                path,
                hypernet,
                encoder,
                training=training,
                descriptions=None if reads_input else _stored(split.training, descriptions),
                overwrite=True,
            )

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
    trainer.add_callback(StepEstimate(config.run.steps, tell))
    trainer.run()
    if main:
        save(folder.path / "last")
        if not sets:
            save(result)
        folder.finish(trainer.summary())
    PartialState().wait_for_everyone()
    return result


def shared_settings(config: Recipe) -> dict[str, Any]:
    """A run's settings as they are stored beside weights: folders by their last name alone."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shorten(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [shorten(item) for item in value]
        return value.name if isinstance(value, Path) else value

    settings: dict[str, Any] = shorten(config.model_dump())
    base = getattr(config, "base", None)
    if isinstance(base, BaseSection):
        settings["base"]["name"] = base_name(base)
    return settings


def resolve_dtype(base: BaseSection, device: torch.device) -> BaseSection:
    """Settle a dtype of "auto", so that a run goes on in the dtype that it began in."""
    if base.dtype != "auto":
        return base
    dtype = "bfloat16" if has_fast_product(torch.bfloat16, device) else "float32"
    return base.model_copy(update={"dtype": dtype})


def load_for_training(
    base: BaseSection, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model as a run asks for it, and its tokenizer.

    Raises ConfigError when it cannot be loaded.
    """
    model, tokenizer = load_base(
        base.name, revision=base.revision, device=device, dtype=getattr(torch, base.dtype)
    )
    if base.attention is not None:
        model.set_attn_implementation(base.attention)
    return model, tokenizer


def make_spec(
    base: BaseSection, adapter: AdapterSection, base_config: PreTrainedConfig
) -> LoraSpec:
    """The spec of the adapters of a run.

    base_config: of the base model, as transformers reads it

    Raises SpecError when the base has no such targets or layers.
    """
    return LoraSpec.from_config(
        base_config,
        targets=adapter.targets,
        rank=adapter.rank,
        alpha=adapter.alpha,
        rslora=adapter.rslora,
        layers=adapter.layers,
        name=base_name(base),
        revision=base.revision,
    )


def embed_texts(
    section: EncoderSection, texts: Sequence[str], folder: Path, device: torch.device
) -> tuple[Tensor, EncoderConfig]:
    """Embed each text once, [texts, embedding_dim]; the encoder's weights are free afterwards.

    folder: of the run, which keeps the embeddings unless the section names another
    """
    encoder = load_encoder(
        section.name,
        device=device,
        revision=section.revision,
        cache_dir=section.cache_dir or folder / "embeddings",
    )
    with warnings.catch_warnings():
        # One for each text; `warn_long` sums them up.
        warnings.filterwarnings("ignore", "the encoder read", T2LWarning)
        embeddings = encoder.encode(texts)
    warn_long(texts, encoder.count_tokens(texts), encoder.config.max_tokens)
    return embeddings, encoder.config


def _descriptions(split: TaskSplit) -> list[str]:
    """Every description of the run's tasks, once."""
    tasks = [*split.training, *(task for part in split.evaluation.values() for task in part)]
    return list(dict.fromkeys(text for task in tasks for text in task.descriptions))


def _stored(tasks: Sequence[Task], descriptions: Descriptions) -> TrainingDescriptions:
    """The first description of each training task, to be stored beside the hypernetwork."""
    texts = list(dict.fromkeys(task.descriptions[0] for task in tasks))
    return TrainingDescriptions.make(texts, descriptions.batch(texts)[0])


def _inputs(
    sampler: TaskSampler, steps: int, evaluated: Mapping[str, Sequence[EvalRow]]
) -> list[str]:
    """Every input that the run will see, once; of the tasks' other rows nothing is embedded."""
    drawn = (row.input for step in range(steps) for row in sampler.batch(step))
    validated = (row.input for rows in evaluated.values() for row in rows)
    return list(dict.fromkeys((*drawn, *validated)))


def _make_hypernet(
    config: RunConfig, base_config: PreTrainedConfig, encoder: EncoderConfig
) -> Hypernetwork | StaticAdapter:
    spec = make_spec(config.base, config.adapter, base_config)
    generator = torch.Generator().manual_seed(config.run.seed)
    if config.hypernet.kind == "static":
        return StaticAdapter(spec, generator)
    if config.hypernet.start_from is not None:
        tokens = token_config(config.tokens, base_config)
        start_from, dropout = config.hypernet.start_from, config.hypernet.dropout
        return _continue(start_from, spec, base_config, encoder, dropout, tokens, generator)
    sizes = config.hypernet.model_dump(exclude={"kind", "reads", "start_from"})
    tokens = token_config(config.tokens, base_config)
    return Hypernetwork.from_config(
        HypernetConfig(embedding_dim=encoder.embedding_dim, tokens=tokens, **sizes), spec, generator
    )


def token_config(section: TokensSection, base_config: PreTrainedConfig) -> TokenConfig | None:
    """Sizes of the parts that read token states; None where a run reads none."""
    if not section.read:
        return None
    hidden_size = base_config.get_text_config(decoder=True).hidden_size
    return TokenConfig(hidden_size=hidden_size, **section.model_dump(exclude={"read"}))


def _continue(
    folder: Path,
    spec: LoraSpec,
    base_config: PreTrainedConfig,
    encoder: EncoderConfig,
    dropout: float,
    tokens: TokenConfig | None,
    generator: torch.Generator,
) -> Hypernetwork:
    """The hypernetwork of a folder, to train on; for the adapters and the encoder of this run.

    tokens: parts that read token states are added where the folder's network has none
    """
    loaded = load_hypernet(folder)
    own, wanted = _parts(loaded.hypernet.spec), _parts(spec)
    if loaded.hypernet.spec.is_for(base_config):  # perhaps under the hash of an earlier release
        own |= {key: wanted[key] for key in ("base.config_hash", "base.model_type")}
    changed = [f"{key} {own[key]!r}, not {wanted[key]!r}" for key in own if own[key] != wanted[key]]
    known = loaded.encoder.fingerprint or encoder.fingerprint  # "" is not checked
    if (loaded.encoder.embedding_dim, known) != (encoder.embedding_dim, encoder.fingerprint):
        changed.append(f"encoder {loaded.encoder.name!r}, not {encoder.name!r} as it is now")
    if changed:
        raise ConfigError(
            f"hypernet.start_from={str(folder)!r} is of another kind: {'; '.join(changed)}; set "
            "base, adapter and encoder as they were for it (base.alias sets the base's name)"
        )
    config = replace(loaded.hypernet.config, dropout=dropout)
    state = loaded.hypernet.state_dict()
    if config.tokens is None and tokens is not None:  # the new parts start as in a fresh network
        config = replace(config, tokens=tokens)
        state = {**Hypernetwork.from_config(config, spec, generator).state_dict(), **state}
    hypernet = Hypernetwork.empty(config, spec)
    hypernet.load_state_dict(state, assign=True)
    return hypernet


def _parts(spec: LoraSpec) -> dict[str, Any]:
    """What tells specs apart, in short values; all else follows from the base's configuration."""
    return {
        **{f"base.{key}": value for key, value in asdict(spec.base).items()},
        "rank": spec.rank,
        "alpha": spec.alpha,
        "rslora": spec.rslora,
        "targets": [group.key for group in spec.groups],
        "layers": sorted({slot.layer for slot in spec.slots}),
    }


def base_name(base: BaseSection) -> str:
    """The name under which adapters and hypernetworks know a base."""
    return base.alias or (EMBEDDED_BASE if base.name == EMBEDDED else base.name)


def _silent(line: str) -> None:
    """Report nothing."""
