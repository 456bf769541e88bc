"""Reconstruction: a hypernetwork learns to predict the adapters of a library.

No base model is loaded, unless the hypernetwork reads the descriptions with it (`tokens.read`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.encoders.one_hot import OneHotEncoder
from text_to_lora.errors import ConfigError, T2LError, list_some
from text_to_lora.files import one_job_a_folder
from text_to_lora.hypernet.checkpoint import save_hypernet
from text_to_lora.hypernet.config import HypernetConfig, TokenConfig
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.hypernet.heads import Factors
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.hypernet.outputs import ZScore
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.library.library import AdapterLibrary, load_library
from text_to_lora.lora.stats import delta_errors
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.models.base import load_base
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.data import seed_of
from text_to_lora.training.plots import plot_reconstruction
from text_to_lora.training.reconstruction_config import ReconstructionConfig, TargetSection
from text_to_lora.training.reconstruction_losses import delta_loss, factor_loss
from text_to_lora.training.sft import embed_texts, shared_settings, token_config
from text_to_lora.training.trainer import RunTrainer, make_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OUTPUTS: Final[Mapping[str, Any]] = {"zscore": "zscore", "factors": "direct", "delta": "delta"}
# Numbers of the adapters that are compared at a time, in fp64: 32 MiB a copy.
_NUMBERS_AT_A_TIME: Final = 2**22


def train_reconstruction(
    config: ReconstructionConfig,
    *,
    output_dir: Path | str,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train a hypernetwork to reconstruct the library that a configuration names.

    The rest is as in `reconstruct`.

    Raises ConfigError when no library is named or settings do not fit it, and what `load_library`
    raises when it is broken.
    """
    if config.data.library is None:
        raise ConfigError("data.library is missing; name the folder of a library of adapters")
    library = load_library(config.data.library, skip_bad=config.data.skip_bad)
    return reconstruct(library, config, output_dir=output_dir, resume=resume, report=report)


@one_job_a_folder
def reconstruct(
    library: AdapterLibrary,
    config: ReconstructionConfig,
    *,
    output_dir: Path | str,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
    embeddings: TaskEmbeddings | None = None,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> Path:
    """Train a hypernetwork to reconstruct a library, and give the folder of the result.

    output_dir: receives `hypernet/` with the weights that `run.select_by` picks, `last/` with those
        of the last step, `config.json`, `history.jsonl`, `history.png`, `result.json` with the
        errors of both, and the newest checkpoints
    resume: go on with an interrupted run of the same settings; False deletes it first
    report: gets lines of progress
    embeddings: of the library's tasks; None makes them as `conditioning` and `encoder` say
    base: the base model and its tokenizer, loaded already, where `tokens.read` is true; the model is
        moved to the run's device; None loads what `load_reading_base` names

    Raises ConfigError when settings, library or folder cannot work, and T2LError naming tasks and
    step when a loss is not finite.
    Source: Text-to-LoRA (arXiv 2506.06105), equation 6.
    """
    folder = RunFolder(output_dir)
    arguments = make_arguments(config.run, config.optimizer, folder.path, evaluate=True)
    device, main = arguments.device, arguments.process_index == 0
    library = _choose(library, config)
    config = _sign(config, library)
    if main:
        folder.open(config, resume=resume)
    PartialState().wait_for_everyone()
    result = folder.path / "hypernet"
    if folder.result is not None:
        return result

    tell = report if report is not None and main else _silent
    if embeddings is None:
        embeddings = embed_tasks(library, config, folder.path, device)
    base = base or load_reading_base(library, config, device)
    tokens = None if base is None else token_config(config.tokens, base[0].config)
    hypernet = make_hypernet(config, library, embeddings.encoder, tokens)
    reader = None if base is None else make_reader(hypernet, *base, device)
    tell(
        f"{len(library)} adapters of {library.spec.num_parameters:,} numbers, "
        f"{hypernet.num_parameters:,} parameters to train"
    )

    stored = None
    if config.conditioning.kind == "text":
        stored = TrainingDescriptions.make(embeddings.first_texts(), embeddings.first())

    def save(path: Path) -> None:
        """Write the weights as they are."""
        save_hypernet(
            path,
            hypernet,
            embeddings.encoder,
            training=shared_settings(config),
            descriptions=stored,
            overwrite=True,
        )

    last_counts = config.run.select_by == "last"
    trainer = ReconstructionTrainer(
        ReconstructionModule(hypernet, config.objective, reader),
        arguments,
        config,
        folder,
        batches=LibraryBatches(
            library,
            embeddings,
            steps=config.run.steps,
            tasks_per_batch=config.data.tasks_per_batch,
            seed=config.run.seed,
            process=arguments.process_index,
            processes=arguments.world_size,
        ),
        library=library,
        embeddings=embeddings,
        save_best=_nothing if last_counts else lambda: save(result),
        report=tell,
    )
    trainer.run()
    errors = trainer.last_errors()
    if main:
        save(folder.path / "last")
        if last_counts:
            save(result)
        folder.finish(trainer.summary() | errors)
    PartialState().wait_for_everyone()
    return result


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
        return self.choose_texts(self.starts)

    def choose_texts(self, rows: Tensor) -> list[str]:
        """The texts of these rows."""
        return [self.texts[row] for row in rows.tolist()]

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
    counts = torch.tensor([len(own) for own in texts])
    flat = [text for own in texts for text in own]
    rows, config_of_encoder = embed_texts(config.encoder, flat, folder, device)
    starts = counts.cumsum(0) - counts
    return TaskEmbeddings(rows, tuple(flat), starts, counts, config_of_encoder)


def load_reading_base(
    library: AdapterLibrary, config: ReconstructionConfig, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | None:
    """The base model that reads descriptions, with its tokenizer; None where none is read.

    It is the one that `data.base` names, or else the one that the library's adapters name.

    Raises ConfigError when it cannot be loaded, SpecError when it is not the adapters' base.
    """
    if not config.tokens.read:
        return None
    return load_base(config.data.base, spec=library.spec, device=device)


def make_reader(
    hypernet: Hypernetwork,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> TokenReader | None:
    """What reads descriptions for a hypernetwork with a base that is moved to a device.

    None where the hypernetwork reads no token states.

    Raises SpecError when the model is not the base of the hypernetwork's adapters.
    """
    tokens = hypernet.config.tokens
    if tokens is None:
        return None
    hypernet.spec.check_base(model.config)
    module: nn.Module = model
    module.to(device)
    return TokenReader(model, tokenizer, hypernet.spec, tokens)


@torch.no_grad()
def reconstruction_errors(
    hypernet: Hypernetwork,
    library: LoraWeights,
    embeddings: Tensor,
    texts: Sequence[str] = (),
    reader: TokenReader | None = None,
) -> dict[str, Tensor]:
    """How far generated adapters are from those of a library, in units that no variant changes.

    embeddings: one for each adapter, [adapters, embedding_dim]
    texts: the description of each adapter; reader: reads them; both where the hypernetwork reads
        token states

    Returns "factor_l1", mean |error| of A and of B, halved and added, over groups that count alike
    [adapters]; and "delta_error", relative error of ΔW in the Frobenius norm [adapters].
    """
    training, device = hypernet.training, next(hypernet.parameters()).device
    size = max(1, _NUMBERS_AT_A_TIME // library.spec.num_parameters)
    factors, deltas = [], []
    hypernet.eval()
    for start in range(0, library.num_adapters, size):
        part = slice(start, start + size)
        wanted = LoraWeights(library.spec, *_take(library, itemgetter(part), device))
        states = None if reader is None else reader(texts[part])
        found: LoraWeights = hypernet(embeddings[part].to(device), states)
        factors.append(_factor_l1(found, wanted))
        deltas.append(delta_errors(found, wanted))
    hypernet.train(training)
    return {"factor_l1": torch.cat(factors).cpu(), "delta_error": torch.cat(deltas).cpu()}


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

    def to(self, device: torch.device) -> TaskBatch:
        """The same adapters on another device."""
        return replace(
            self,
            embeddings=self.embeddings.to(device),
            a={key: factor.to(device) for key, factor in self.a.items()},
            b={key: factor.to(device) for key, factor in self.b.items()},
        )


@final
class LibraryBatches(Dataset[TaskBatch]):
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
        steps: int,
        tasks_per_batch: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._library = library
        self._embeddings = embeddings
        self._steps = steps
        self._size = min(tasks_per_batch, len(library))
        if self._size < processes:
            raise ConfigError(
                f"a step has {self._size} adapters, too few for {processes} processes; "
                "raise data.tasks_per_batch or use fewer"
            )
        self._seed = seed
        self._own = slice(
            self._size * process // processes, self._size * (process + 1) // processes
        )
        self._pass = -1
        self._order = torch.empty(0)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> TaskBatch:
        tasks = self.tasks(step)[self._own]
        generator = torch.Generator().manual_seed(seed_of(f"{self._seed}/descriptions/{step}"))
        a, b = _take(self._library.weights, lambda factor: factor.index_select(0, tasks))
        rows = self._embeddings.draw(tasks, generator)
        return TaskBatch(
            embeddings=self._embeddings.rows[rows],
            a=a,
            b=b,
            names=lambda: [self._library.entries[task].task for task in tasks.tolist()],
            share=len(tasks) / self._size,
            seed=seed_of(f"{self._seed}/dropout/{step}"),
            texts=lambda: self._embeddings.choose_texts(rows),
        )

    def tasks(self, step: int) -> Tensor:
        """The numbers of the step's adapters, over all processes, [tasks]."""
        number, place = divmod(step, len(self._library) // self._size)
        if number != self._pass:
            generator = torch.Generator().manual_seed(seed_of(f"{self._seed}/pass/{number}"))
            self._order = torch.randperm(len(self._library), generator=generator)
            self._pass = number
        return self._order[place * self._size : (place + 1) * self._size]


@final
class ReconstructionModule(nn.Module):
    """The loss of a step as a function of the hypernetwork's weights.

    reader: gives the base's token states where the hypernetwork reads them
    """

    def __init__(
        self, hypernet: Hypernetwork, objective: TargetSection, reader: TokenReader | None = None
    ) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.reader = reader
        self._loss = delta_loss if objective.target == "delta" else factor_loss
        scaled = objective.target == "delta" and objective.lora_scaling
        self._factor = hypernet.spec.scaling if scaled else 1.0

    def forward(self, batch: TaskBatch) -> Tensor:
        """This process's share of the step's loss, in the unit of what the heads predict.

        Raises T2LError naming the tasks when it is not finite.
        """
        wanted = self.hypernet.output.invert(batch.a, batch.b)
        states = None if self.reader is None else self.reader(batch.texts())
        devices = [batch.embeddings.device] if batch.embeddings.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch.seed)
            found = self.hypernet.predict(batch.embeddings, states)
        loss = self._loss(found, wanted) * (self._factor * batch.share)
        if not loss.isfinite():
            raise T2LError(f"the loss is {loss.item()} for adapters {', '.join(batch.names())}")
        return loss


@final
class ReconstructionTrainer(RunTrainer):
    """Trains a ReconstructionModule; measures it on the whole library.

    library: the adapters; embeddings: of their tasks, the first of each is measured
    """

    unit = "adapters"

    def __init__(
        self,
        module: ReconstructionModule,
        arguments: TrainingArguments,
        config: ReconstructionConfig,
        folder: RunFolder,
        *,
        batches: LibraryBatches,
        library: AdapterLibrary,
        embeddings: TaskEmbeddings,
        save_best: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._hypernet = module.hypernet
        self._library = library
        self._reader = module.reader
        self._embeddings, self._texts = embeddings.first(), embeddings.first_texts()
        by_factors = config.run.select_by == "factors"
        self._selected = "factor_l1" if by_factors else "delta_error"
        super().__init__(
            module,
            arguments,
            folder,
            run=config.run,
            optimizer=config.optimizer,
            batches=batches,
            save_best=save_best,
            report=report,
        )

    def count(self, batch: Any) -> int:
        """See RunTrainer.count; adapters."""
        return len(batch.embeddings)

    def validate(self) -> dict[str, float]:
        """See RunTrainer.validate; means of `reconstruction_errors` over the library."""
        count = len(self._library)
        processes, process = self.args.world_size, self.args.process_index
        own = slice(count * process // processes, count * (process + 1) // processes)
        weights = LoraWeights(self._library.spec, *_take(self._library.weights, itemgetter(own)))
        errors = reconstruction_errors(
            self._hypernet, weights, self._embeddings[own], self._texts[own], self._reader
        )
        sums = self._add(torch.stack([error.double().sum() for error in errors.values()]))
        return dict(zip(errors, (sums / count).tolist(), strict=True))

    def selection(self, metrics: Mapping[str, float]) -> float:
        """See RunTrainer.selection."""
        return metrics[self._selected]

    def plot(self) -> None:
        """See RunTrainer.plot."""
        plot_reconstruction(self.state.log_history, self._folder.path / "history.png")

    def last_errors(self) -> dict[str, Any]:
        """Errors of the last and of the best step; measures the last where it was not yet."""
        measured = [line for line in self.state.log_history if "eval_delta_error" in line]
        if not measured or measured[-1]["step"] != self.state.global_step:
            self.evaluate()
            measured = [line for line in self.state.log_history if "eval_delta_error" in line]
        best = next(line for line in measured if line["step"] == self.state.best_global_step)
        names = ("factor_l1", "delta_error")
        return {
            "last": {name: measured[-1][f"eval_{name}"] for name in names},
            "best": {name: best[f"eval_{name}"] for name in names},
            "parameters": self._hypernet.num_parameters,
        }


def _choose(library: AdapterLibrary, config: ReconstructionConfig) -> AdapterLibrary:
    """The adapters that the run is about."""
    count = config.data.adapters
    if count is not None:
        if count > len(library):
            raise ConfigError(
                f"data.adapters is {count}; the library has {len(library)}; lower it, or leave it "
                "out for all"
            )
        library = library.select(library.names[:count])
    if config.objective.target == "zscore" and len(library) < 2:
        raise ConfigError(
            "the library has one adapter, which has no standard deviation; set objective.target "
            "to factors or delta"
        )
    return library


def _sign(config: ReconstructionConfig, library: AdapterLibrary) -> ReconstructionConfig:
    """The configuration with the library's fingerprint."""
    found, known = library.fingerprint, config.data.fingerprint
    if known and known != found:
        raise ConfigError(
            f"the library has fingerprint {found[:12]}, not data.fingerprint {known[:12]}; give the "
            "library that the run was made for"
        )
    return config.model_copy(update={"data": config.data.model_copy(update={"fingerprint": found})})


def make_hypernet(
    config: ReconstructionConfig,
    library: AdapterLibrary,
    encoder: EncoderConfig,
    tokens: TokenConfig | None = None,
) -> Hypernetwork:
    """A fresh hypernetwork for a library; under z-scores with the library's moments.

    tokens: sizes of the parts that read token states; None reads none
    """
    objective, conditioning = config.objective, config.conditioning
    hypernet = Hypernetwork.from_config(
        HypernetConfig(
            embedding_dim=encoder.embedding_dim,
            output=_OUTPUTS[objective.target],
            delta_scaling=objective.delta_scaling,
            task_vector_dim=conditioning.vector_dim if conditioning.kind == "learned" else None,
            tokens=tokens,
            **config.hypernet.model_dump(),
        ),
        library.spec,
        torch.Generator().manual_seed(config.run.seed),
        as_lora=False,
    )
    if isinstance(hypernet.output, ZScore):
        hypernet.output.set_library(library.weights)
    return hypernet


def _take(
    library: LoraWeights,
    choose: Callable[[Tensor], Tensor],
    device: torch.device | None = None,
) -> tuple[Factors, Factors]:
    """Adapters chosen from the stacked tensors, fp32."""
    return (
        {key: choose(factor).to(device, torch.float32) for key, factor in library.a.items()},
        {key: choose(factor).to(device, torch.float32) for key, factor in library.b.items()},
    )


def _factor_l1(found: LoraWeights, wanted: LoraWeights) -> Tensor:
    """Mean |error| of A and of B, halved and added, over groups, [adapters]."""
    sides = [
        (found_side[key] - wanted_side[key]).abs().mean(dim=(1, 2, 3))
        for found_side, wanted_side in ((found.a, wanted.a), (found.b, wanted.b))
        for key in wanted_side
    ]
    return torch.stack(sides).mean(0)


def _silent(line: str) -> None:
    """Report nothing."""


def _nothing() -> None:
    """Keep no weights before the last."""
