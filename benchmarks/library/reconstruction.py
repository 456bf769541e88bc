"""Reconstructions of part of a library as the experiments make them: one run, errors, bytes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import EMBEDDINGS, HEADS, WORK, Experiment

from text_to_lora.encoders import load_encoder
from text_to_lora.files import read_json
from text_to_lora.hypernet import Hypernetwork, load_hypernet
from text_to_lora.lora import LoraWeights, delta_errors
from text_to_lora.lora.library import AdapterLibrary
from text_to_lora.training.config import load_recipe
from text_to_lora.training.reconstruction import reconstruct
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from text_to_lora.training.reconstruction_losses import factor_loss

RECIPES = {"one-hot": "reconstruct-onehot", "text": "reconstruct-embedded"}


def add_settings(arguments: argparse.ArgumentParser, *, steps: int, batch: int) -> None:
    """Arguments of the runs; the same for every cell, so that all get the same number of steps."""
    arguments.add_argument("--steps", type=int, default=steps, help=f"a run (default {steps})")
    arguments.add_argument(
        "--batch", type=int, default=batch, help=f"adapters a step (default {batch})"
    )
    arguments.add_argument("--lr", type=float, default=5e-3, help="peak rate (default 5e-3)")
    arguments.add_argument("--latent", type=int, default=128, help="latent size (default 128)")
    arguments.add_argument("--head-in", type=int, default=256, help="heads' input (default 256)")
    arguments.add_argument("--dropout", type=float, default=0.0, help="share dropped (default 0)")
    arguments.add_argument("--encoder", default="minilm", help="of descriptions (default minilm)")
    arguments.add_argument(
        "--descriptions", type=int, default=16, help="a task, from the first (default 16)"
    )
    arguments.add_argument("--work", type=Path, default=WORK, help="folder of the runs")


def settings(options: argparse.Namespace, head: str, conditioning: str) -> ReconstructionConfig:
    """The configuration of one run: a recipe of the package, with the arguments over it.

    head: L, M or S; conditioning: "one-hot" or "text"
    """
    values = {
        "data.tasks_per_batch": options.batch,
        "data.descriptions_per_task": options.descriptions,
        "encoder.name": options.encoder,
        "encoder.cache_dir": options.work / EMBEDDINGS,
        "hypernet.head": HEADS[head],
        "hypernet.latent_size": options.latent,
        "hypernet.head_in_size": options.head_in,
        "hypernet.dropout": options.dropout,
        "optimizer.lr": options.lr,
        "run.steps": options.steps,
        "run.seed": options.seed,
        "run.log_every": max(1, options.steps // 20),
        "run.eval_every": options.steps,
        "run.save_every": max(1, options.steps // 2),
        "run.keep_checkpoints": 1,
        "run.select_by": "last",
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    return load_recipe(RECIPES[conditioning], overrides, kind=ReconstructionConfig)


SETTINGS = ("steps", "batch", "lr", "latent", "head_in", "dropout", "encoder", "descriptions")


def identity(options: argparse.Namespace, head: str, conditioning: str) -> dict[str, Any]:
    """What a cell depends on beside the library."""
    return {
        "head": head,
        "conditioning": conditioning,
        "recipe": RECIPES[conditioning],
        "training": {name: getattr(options, name) for name in SETTINGS},
    }


def run(
    experiment: Experiment, library: AdapterLibrary, name: str, head: str, conditioning: str
) -> tuple[LoraWeights, dict[str, Any]]:
    """Train to reconstruct a library, and give its adapters as predicted, with figures of the run.

    name: of the run's folder below --work; a run that was interrupted goes on
    The prediction is from each task's name (one-hot), or from its first description (text).
    """
    options = experiment.options
    folder = options.work / name
    made = reconstruct(
        library,
        settings(options, head, conditioning),
        output_dir=folder,
        report=lambda line: print(f"{name}: {line}", flush=True),
    )
    loaded = load_hypernet(made)
    encoder = load_encoder(loaded.encoder, cache_dir=options.work / EMBEDDINGS)
    texts = [
        entry.task if conditioning == "one-hot" else entry.descriptions[0]
        for entry in library.entries
    ]
    with torch.no_grad():
        found = loaded.hypernet(encoder.encode(texts))
    result = read_json(folder / "result.json")
    return found, {
        "adapters": len(library),
        "train_seconds": round(result["seconds"], 1),
        "bytes": sizes(library, loaded.hypernet),
    }


def sizes(library: AdapterLibrary, hypernet: Hypernetwork) -> dict[str, Any]:
    """Bytes of the adapters and of the network that stands for them, and their ratios.

    The moments (mean and deviation of every number over the library) are stored with the network;
    the paper counts parameters alone.
    """
    adapters = library.weights.num_bytes
    parameters = sum(p.numel() * p.element_size() for p in hypernet.parameters())
    whole = sum(t.numel() * t.element_size() for t in hypernet.state_dict().values())
    return {
        "library": adapters,
        "parameters": parameters,
        "with_moments": whole,
        "ratio": adapters / parameters,
        "ratio_with_moments": adapters / whole,
    }


def errors(
    found: LoraWeights, library: AdapterLibrary, scored: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Error of predicted adapters over the whole library, and over the scored tasks alone.

    found: one adapter for each of the library, or one for all
    """
    wanted, count = library.weights, len(library)
    if found.num_adapters == 1:
        found = found.select([0] * count)
    places = [library.names.index(name) for name in scored]
    report = {}
    for name, chosen in (("all", list(range(count))), ("scored", places)):
        left, right = found.select(chosen), wanted.select(chosen)
        report[name] = {
            "factor_l1": float(factor_loss((left.a, left.b), (right.a, right.b))),
            "delta_error": float(delta_errors(left, right).mean()),
        }
    return report
