"""Make what the package ships: the hypernetwork and the multi-task adapters of the default base.

    python packages/text-to-lora-embedded/build/make.py --data DIR --runs RUNS [--round 1]

It calls the command line as any user would. Every command goes on where it was interrupted, and
does nothing when it has finished. A round is one run of about 600 steps; a later round goes on from
the weights of the one before it, with a new warm-up and the rate at zero at its end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from text_to_lora.hypernet import load_hypernet, save_hypernet

PACKAGE = Path(__file__).parents[1] / "src" / "text_to_lora_embedded"


def t2l(*arguments: str) -> None:
    """Run a command of the program, and stop when it fails."""
    subprocess.run([sys.executable, "-m", "text_to_lora.cli", *arguments], check=True)


def train_round(data: Path, runs: Path, number: int, settings: list[str]) -> Path:
    """Train the hypernetwork for one round; gives the folder of its last weights."""
    folder = runs / f"hypernet-{number}"
    overrides = [f"data.data_dir={data}", f"encoder.cache_dir={runs / 'embeddings'}", *settings]
    if number > 1:
        before = runs / f"hypernet-{number - 1}" / "last"
        start = before if before.is_dir() else PACKAGE / "hypernet"  # in bfloat16, as it ships
        overrides.append(f"hypernet.start_from={start}")
        overrides.append(f"run.seed={41 + number}")  # other rows than those of the rounds before
    options = [part for setting in overrides for part in ("--set", setting)]
    t2l("train", "sft", "embedded", "-o", str(folder), *options)
    return folder / "last"


def store(hypernet: Path) -> None:
    """Put a hypernetwork into the package, in bfloat16."""
    loaded = load_hypernet(hypernet)
    save_hypernet(
        PACKAGE / "hypernet",
        loaded.hypernet,
        loaded.encoder,
        training=loaded.training,
        descriptions=loaded.descriptions,
        dtype=torch.bfloat16,
        overwrite=True,
    )


def main() -> None:
    """Train a round and store it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("--round", type=int, default=1, help="round of the hypernetwork, from 1")
    parser.add_argument("--set", action="append", default=[], help="SECTION.FIELD=VALUE of the run")
    options = parser.parse_args()
    store(train_round(options.data, options.runs, options.round, options.set))


if __name__ == "__main__":
    main()
