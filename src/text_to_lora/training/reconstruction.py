"""Reconstruction: a hypernetwork learns to predict the adapters of a library.

No base model is loaded, unless the hypernetwork reads the descriptions with it (`tokens.read`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import ConfigError, T2LError, list_some
from text_to_lora.files import one_job_a_folder
from text_to_lora.hypernet.checkpoint import save_hypernet
from text_to_lora.hypernet.config import HypernetConfig, TokenConfig
from text_to_lora.hypernet.descriptions import TrainingDescriptions
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.hypernet.outputs import ZScore
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.library.library import AdapterLibrary, load_library
from text_to_lora.lora.stats import delta_errors, delta_norms
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.models.base import load_base
from text_to_lora.training.descent import DescentLearner, Session
from text_to_lora.training.library_batches import (
    LibraryBatches,
    TaskBatch,
    TaskEmbeddings,
    embed_tasks,
)
from text_to_lora.training.plots import plot_reconstruction
from text_to_lora.training.reconstruction_config import ReconstructionConfig, TargetSection
from text_to_lora.training.reconstruction_losses import delta_loss, factor_loss
from text_to_lora.training.setup import shared_settings, token_config

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
    report: Callable[[str], None] = lambda line: None,
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
    report: Callable[[str], None] = lambda line: None,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> Path:
    """Train a hypernetwork to reconstruct a library, and give the folder of the result.

    output_dir: receives `hypernet/` with the weights that `run.select_by` picks, `last/` with those
        of the last step, `config.json`, `history.jsonl`, `history.png`, `result.json` with the
        errors of both, and the newest checkpoints
    resume: go on with an interrupted run of the same settings; False deletes it first
    report: gets lines of progress
    base: the base model and its tokenizer, loaded already, where `tokens.read` is true; the model is
        moved to the run's device; None loads the one that `data.base` names, or else the adapters

    Raises ConfigError when settings, library or folder cannot work or an adapter changes nothing,
    and T2LError naming tasks and step when a loss is not finite.
    Source: Text-to-LoRA (arXiv 2506.06105), equation 6.
    """
    session = Session(config.run, output_dir, report)
    library = _choose_adapters(library, config)
    config = _sign(config, library)
    result = session.folder.path / "hypernet"
    if session.open(config, resume=resume):
        return result
    device = session.device
    embeddings = embed_tasks(library, config, session.folder.path, device)
    hypernet, reader = _make_reading_hypernet(config, library, embeddings.encoder, device, base)
    session.report(
        f"{len(library)} adapters of {library.spec.num_parameters:,} numbers, "
        f"{hypernet.num_parameters:,} parameters to train"
    )
    save = _make_saver(hypernet, config, embeddings)
    last_counts = config.run.select_by == "last"

    def save_best() -> None:
        if not last_counts:
            save(result)

    module = ReconstructionModule(hypernet, config.objective, reader)
    learner = _make_learner(config, module, library, embeddings, session, save_best)
    loop = session.train(learner, lambda lines, path: plot_reconstruction(lines, path))
    measured = {line["step"]: line for line in loop.lines if "eval_delta_error" in line}
    errors = {
        part: {name: measured[step][f"eval_{name}"] for name in ("factor_l1", "delta_error")}
        for part, step in (("last", loop.step), ("best", learner.best_step or 0))
    }
    outcome = loop.result() | learner.best() | errors
    outcome["parameters"] = hypernet.num_parameters
    session.finish(save, result, outcome, last_counts=last_counts)
    return result


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
    factors, deltas = [], []
    hypernet.eval()
    for part, wanted in _take_parts(library, device):
        states = None if reader is None else reader(texts[part])
        generated: LoraWeights = hypernet(embeddings[part].to(device), states)
        factors.append(_factor_l1(generated, wanted))
        deltas.append(delta_errors(generated, wanted))
    hypernet.train(training)
    return {"factor_l1": torch.cat(factors).cpu(), "delta_error": torch.cat(deltas).cpu()}


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
            predicted = self.hypernet.predict(batch.embeddings, states)
        loss = self._loss(predicted, wanted) * (self._factor * batch.share)
        if not loss.isfinite():
            raise T2LError(f"the loss is {loss.item()} for adapters {', '.join(batch.names())}")
        return loss


def _make_saver(
    hypernet: Hypernetwork, config: ReconstructionConfig, embeddings: TaskEmbeddings
) -> Callable[[Path], None]:
    """What writes the weights as they are."""
    descriptions = None
    if config.conditioning.kind == "text":
        descriptions = TrainingDescriptions.make(embeddings.first_texts(), embeddings.first())
    training = shared_settings(config)

    def save(path: Path) -> None:
        encoder = embeddings.encoder
        described: Any = {"training": training, "descriptions": descriptions}
        save_hypernet(path, hypernet, encoder, **described, overwrite=True)

    return save


def _make_learner(
    config: ReconstructionConfig,
    module: ReconstructionModule,
    library: AdapterLibrary,
    embeddings: TaskEmbeddings,
    session: Session,
    save_best: Callable[[], None],
) -> DescentLearner:
    """What the loop trains: the module on the library, measured on all of it."""
    count, process, processes = len(library), session.process, session.processes
    share = slice(count * process // processes, count * (process + 1) // processes)
    weights = library.weights.map(lambda factor: factor[share].to(torch.float32))
    vectors, texts = embeddings.first()[share], embeddings.first_texts()[share]

    def measure() -> dict[str, float]:
        errors = reconstruction_errors(module.hypernet, weights, vectors, texts, module.reader)
        sums = torch.stack([error.double().sum() for error in errors.values()])
        means = session.add(sums) / count
        return dict(zip(errors, means.tolist(), strict=True))

    return DescentLearner(
        module,
        LibraryBatches(
            library,
            embeddings,
            tasks_per_batch=config.data.tasks_per_batch,
            seed=config.run.seed,
            process=process,
            processes=processes,
        ),
        session,
        run=config.run,
        optimizer=config.optimizer,
        unit="adapters",
        measure=measure,
        selected="factor_l1" if config.run.select_by == "factors" else "delta_error",
        save_best=save_best,
    )


def _choose_adapters(library: AdapterLibrary, config: ReconstructionConfig) -> AdapterLibrary:
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
    _check_changes(library)
    return library


@torch.no_grad()
def _check_changes(library: AdapterLibrary) -> None:
    """Refuse adapters that change nothing, from which no relative error of ΔW can be taken."""
    changes = [
        torch.stack([norms.sum(1) for norms in delta_norms(part).values()]).sum(0)
        for _, part in _take_parts(library.weights)
    ]
    names = [library.names[place] for place in (torch.cat(changes) == 0).nonzero().flatten()]
    if names:
        raise ConfigError(
            f"{len(names)} of {len(library)} adapters change nothing, since B A is zero in all of "
            f"their modules: {list_some(names)}; every adapter has to change one module at least: "
            "train these for longer, or make a library of the others (t2l library export --task, "
            "t2l library add)"
        )


def _take_parts(
    library: LoraWeights, device: torch.device | None = None
) -> Iterator[tuple[slice, LoraWeights]]:
    """A few adapters at a time, fp32, with their places."""
    size = max(1, _NUMBERS_AT_A_TIME // library.spec.num_parameters)
    for start in range(0, library.num_adapters, size):
        part = slice(start, start + size)
        yield part, library.map(lambda factor: factor[part].to(device, torch.float32))  # noqa: B023


def _sign(config: ReconstructionConfig, library: AdapterLibrary) -> ReconstructionConfig:
    """The configuration with the library's fingerprint."""
    actual, known = library.fingerprint, config.data.fingerprint
    if known and known != actual:
        raise ConfigError(
            f"the library has fingerprint {actual[:12]}, not data.fingerprint {known[:12]}; give the "
            "library that the run was made for"
        )
    return config.model_copy(
        update={"data": config.data.model_copy(update={"fingerprint": actual})}
    )


def _make_reading_hypernet(
    config: ReconstructionConfig,
    library: AdapterLibrary,
    encoder: EncoderConfig,
    device: torch.device,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None,
) -> tuple[Hypernetwork, TokenReader | None]:
    """A fresh hypernetwork, and what reads descriptions for it where `tokens.read` is true.

    Raises ConfigError when no base can be loaded, SpecError when it is not the adapters' base.
    """
    if not config.tokens.read:
        return make_hypernet(config, library, encoder), None
    model, tokenizer = base or load_base(config.data.base, spec=library.spec, device=device)
    library.spec.check_base(model.config)
    module: nn.Module = model
    module.to(device)
    tokens = token_config(config.tokens, model.config)
    assert tokens is not None
    hypernet = make_hypernet(config, library, encoder, tokens)
    return hypernet, TokenReader.of_model(model, tokenizer, library.spec, tokens)


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


def _factor_l1(generated: LoraWeights, wanted: LoraWeights) -> Tensor:
    """Mean |error| of A and of B, halved and added, over groups, [adapters]."""
    sides = [
        (side[key] - wanted_side[key]).abs().mean(dim=(1, 2, 3))
        for side, wanted_side in ((generated.a, wanted.a), (generated.b, wanted.b))
        for key in wanted_side
    ]
    return torch.stack(sides).mean(0)
