"""A library of adapters becomes one hypernetwork: settings that fit it, and what it costs and saves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from text_to_lora.choices import HeadName
from text_to_lora.errors import ConfigError, list_some
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.files import write_folder
from text_to_lora.generate import TextToLora
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.folder import load_folder_or_tree
from text_to_lora.tasks.task import Task
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.reconstruction import reconstruct
from text_to_lora.training.reconstruction_config import ReconstructionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Conditioning = Literal["text", "one-hot", "learned"]

_PASSES: Final = 400  # over the library; more still helps, see docs/reconstruction.md
_FEWEST_STEPS: Final = 2000
_TASKS_PER_BATCH: Final = 16
# Three times the paper's, which has hundreds of times as many steps: see docs/reconstruction.md
_LR: Final = 3e-3


@dataclass(frozen=True)
class Compression:
    """What a hypernetwork makes of a library.

    adapters: how many; parameters: trained numbers of the hypernetwork
    bytes_before, bytes_after: of the library's folder and of the hypernetwork's
    factor_l1: mean |error| of A and of B, halved and added; delta_error: relative error of ΔW; both
        means over the adapters that the saved hypernetwork generates
    """

    adapters: int
    parameters: int
    bytes_before: int
    bytes_after: int
    factor_l1: float
    delta_error: float

    @property
    def ratio(self) -> float:
        """How many times smaller the hypernetwork is."""
        return self.bytes_before / self.bytes_after

    def to_dict(self) -> dict[str, Any]:
        """The fields and the ratio as JSON values."""
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Scores:
    """Answer NLL in nats a token, means over tasks, of rows that no adapter was trained on.

    tasks, rows: how many were scored
    base: no adapter; before: the library's adapters; after: those of the hypernetwork
    """

    tasks: int
    rows: int
    base: float
    before: float
    after: float


def fit_settings(
    library: AdapterLibrary,
    *,
    conditioning: Conditioning | None = None,
    head: HeadName = "joint",
    steps: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Settings of a reconstruction that fit a library; sections as in ReconstructionConfig.

    conditioning: None takes text where every task has a description, else one-hot
    steps: None gives every adapter as many turns, and a small library more

    The width of the heads' input follows the library: a quarter of the vectors that a head has to
    tell apart, one for each adapter and layer, from 64 to 512.
    """
    described = all(entry.descriptions for entry in library.entries)
    layers = max(len(group.layers) for group in library.spec.groups)
    width = min(512, max(64, len(library) * layers // 4 // 32 * 32))
    batch = min(_TASKS_PER_BATCH, len(library))
    steps = steps or max(_FEWEST_STEPS, _PASSES * len(library) // batch)
    return {
        "conditioning": {"kind": conditioning or ("text" if described else "one-hot")},
        "encoder": {"name": "minilm"},
        "data": {"tasks_per_batch": batch},
        "hypernet": {"head": head, "latent_size": 128, "head_in_size": width, "dropout": 0.0},
        "objective": {"target": "zscore" if len(library) > 1 else "factors"},
        "optimizer": {"lr": _LR},
        "run": {
            "steps": steps,
            "eval_every": max(1, steps // 10),
            "save_every": max(1, steps // 10),
            "log_every": max(1, steps // 100),
        },
    }


def compress(
    library: AdapterLibrary,
    library_path: Path | str,
    config: ReconstructionConfig,
    *,
    output: Path | str,
    overwrite: bool = False,
    resume: bool = True,
    report: Callable[[str], None] = lambda line: None,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> Compression:
    """Train a hypernetwork to reconstruct a library and write its folder, whole or not at all.

    library_path: where the library was read from, whose size counts
    output: the hypernetwork's folder; beside it `OUTPUT.run` keeps the run until it is done, so that
        the same call goes on with an interrupted one
    resume: False starts anew
    base: as for `reconstruct`; on the CPU afterwards

    Raises ConfigError when `output` exists without `overwrite`, when the settings ask for part of the
    library or for another one, and what `reconstruct` raises.
    """
    for key in ("library", "adapters"):
        if (value := getattr(config.data, key)) is not None:
            raise ConfigError(
                f"data.{key} is {str(value)!r}, but the whole library that is named is compressed; "
                "leave it out, or use t2l train reconstruct for part of one"
            )
    target = Path(output)
    run = target.with_name(f"{target.name}.run")
    result = reconstruct(library, config, output_dir=run, resume=resume, report=report, base=base)
    if base is not None:  # which the run may have moved to another device
        module: nn.Module = base[0]
        module.to("cpu")
    outcome = RunFolder(run).result
    assert outcome is not None
    errors = outcome["last" if config.run.select_by == "last" else "best"]
    compression = Compression(
        adapters=len(library),
        parameters=outcome["parameters"],
        bytes_before=_size(Path(library_path)),
        bytes_after=_size(result),
        factor_l1=errors["factor_l1"],
        delta_error=errors["delta_error"],
    )
    with write_folder(target, overwrite=overwrite) as folder:
        shutil.copytree(result, folder, dirs_exist_ok=True)
    RunFolder(run).delete()
    return compression


def choose_tasks(library: AdapterLibrary, data: Path | str, *, count: int) -> list[Task]:
    """Read tasks of a library from a data folder, spread evenly over its order.

    data: a folder of task collections with a splits.json, whose split "train" counts, or one
        collection
    count: most tasks

    Raises ConfigError when none of the library's tasks is there with rows to validate on.
    """
    known = {task.name: task for task in load_folder_or_tree(data)}
    tasks = [known[name] for name in library.names if name in known and known[name].validation()]
    if not tasks:
        raise ConfigError(
            f"{str(data)!r} has none of the library's tasks with rows to validate on "
            f"(idx % 10 == 9): {list_some(library.names)}; give the data that it was trained on"
        )
    places = sorted({round(i * (len(tasks) - 1) / max(1, count - 1)) for i in range(count)})
    return [tasks[place] for place in places]


def score_compression(
    library: AdapterLibrary,
    hypernet: Path | str,
    tasks: Sequence[Task],
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows_per_task: int = 8,
) -> Scores:
    """Score a library's adapters and those that a hypernetwork generates for the same tasks.

    tasks: of the library; hypernet: its folder

    Raises SpecError when the base is not the adapters' own.
    """
    t2l = TextToLora.from_pretrained(hypernet, base=(base, tokenizer))
    names = [task.name for task in tasks]
    named = t2l.encoder.config.kind == "one-hot"
    texts = names if named else [library.entry(name).descriptions[0] for name in names]
    rows = choose_rows(tasks, rows_per_task=rows_per_task, seed=0, examples=Task.validation)
    adapters = [names.index(row.task.name) for row in rows]
    scorer = Scorer(base, tokenizer, max_new_tokens=0)

    def mean_nll(weights: LoraWeights | None) -> float:
        answers = scorer.score(
            rows, weights=weights, adapters=None if weights is None else adapters
        )
        by_task: dict[str, list[float]] = {}
        for row, answer in zip(rows, answers, strict=True):
            by_task.setdefault(row.task.name, []).append(answer.nll)
        return fmean(fmean(values) for values in by_task.values())

    return Scores(
        tasks=len(names),
        rows=len(rows),
        base=mean_nll(None),
        before=mean_nll(library.select(names).weights.to(dtype=torch.float32)),
        after=mean_nll(t2l.generate(texts).weights),
    )


def _size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
