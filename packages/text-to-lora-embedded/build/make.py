"""Make what belongs to the default base: the hypernetwork, and all that it is compared with.

    python packages/text-to-lora-embedded/build/make.py --data DIR --runs RUNS PART [PART ...]

PART is one of:

    hypernet             the hypernetwork, one round of training: --round 1, 2 or 3
    average              the mean of the weights after rounds 2 and 3, which is what ships
    multitask            one adapter on the same rows and steps, without descriptions
    multitask-in-prompt  the same with the description in its prompt
    library              an adapter for each of 64 training tasks
    oracles              an adapter for each unseen task, on the rows that are never scored

The script calls the command line as any user would. Every command goes on where it was interrupted,
and does nothing when it has finished. A later round of the hypernetwork starts from the weights of the
one before it, with other rows and other synthetic tasks, a new warm-up and the rate at zero at its end.
The hypernetwork and the two multi-task adapters are put into the package, and
`python -m benchmarks.studies.unseen` scores them with the library and the oracles.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from text_to_lora import load_adapter, load_hypernet, save_adapter, save_hypernet
from text_to_lora.hypernet.checkpoint import Loaded
from text_to_lora.models.base import load_base_config

PACKAGE = Path(__file__).parents[1] / "src" / "text_to_lora_embedded"
LIBRARY_TASKS = 64


def t2l(*arguments: str, settings: list[str]) -> None:
    """Run a command of the program with settings of its recipe, and stop when it fails."""
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "text_to_lora.cli", *arguments, *options]
    if code := subprocess.call(command):
        raise SystemExit(code)


def make_hypernet(options: argparse.Namespace) -> None:
    """Train the hypernetwork for one round and put it into the package, in bfloat16."""
    number: int = options.round
    folder = options.runs / f"hypernet-{number}"
    settings = [f"data.data_dir={options.data}", f"encoder.cache_dir={options.runs / 'embeddings'}"]
    if number > 1:
        before = options.runs / f"hypernet-{number - 1}" / "last"
        start = before if before.is_dir() else PACKAGE / "hypernet"  # in bfloat16, as it ships
        settings += [
            f"hypernet.start_from={start}",
            f"run.seed={41 + number}",
            f"data.family_seed={16 + number}",
        ]
    t2l("train", "sft", "embedded", "-o", str(folder), settings=[*settings, *options.set])
    put_into_package(load_hypernet(folder / "last"))


def make_average(options: argparse.Namespace) -> None:
    """Put the mean of the weights after rounds 2 and 3 into the package; see docs/log.md."""
    two, three = (load_hypernet(options.runs / f"hypernet-{n}" / "last") for n in (2, 3))
    weights = two.hypernet.state_dict()
    mean = {key: (weights[key] + value) / 2 for key, value in three.hypernet.state_dict().items()}
    three.hypernet.load_state_dict(mean)
    put_into_package(three)


def put_into_package(trained: Loaded) -> None:
    """Save a hypernetwork as the embedded one, in bfloat16."""
    save_hypernet(
        PACKAGE / "hypernet",
        trained.hypernet,
        trained.encoder,
        training=trained.training,
        descriptions=trained.descriptions,
        dtype=torch.bfloat16,
        overwrite=True,
    )


def make_multitask(options: argparse.Namespace, name: str = "multitask") -> None:
    """Train a multi-task adapter and put it into the package, in bfloat16."""
    folder = options.runs / name
    settings = [f"data.data_dir={options.data}", *options.set]
    t2l("train", "sft", f"embedded-{name}", "-o", str(folder), settings=settings)
    adapter = load_adapter(folder / "last", base_config=load_base_config("embedded"))
    save_adapter(adapter, PACKAGE / name, dtype=torch.bfloat16, overwrite=True)


def make_multitask_in_prompt(options: argparse.Namespace) -> None:
    """Train the multi-task adapter that reads the description in its prompt."""
    make_multitask(options, "multitask-in-prompt")


def make_library(options: argparse.Namespace) -> None:
    """Train the adapters of training tasks that mean, retrieval and routing draw on."""
    _train_adapters(options, "library", [f"data.count={LIBRARY_TASKS}"])


def make_oracles(options: argparse.Namespace) -> None:
    """Train the adapters of the unseen tasks."""
    _train_adapters(
        options,
        "oracles",
        [
            "data.split=dev_heldout",
            "data.count=null",
            "data.validation_one_in=0",
            "data.min_descriptions=1",
        ],
    )


def _train_adapters(options: argparse.Namespace, name: str, settings: list[str]) -> None:
    settings = [f"data.data_dir={options.data}", *settings, *options.set]
    t2l("train", "adapters", "embedded-library", "-o", str(options.runs / name), settings=settings)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "hypernet": make_hypernet,
    "average": make_average,
    "multitask": make_multitask,
    "multitask-in-prompt": make_multitask_in_prompt,
    "library": make_library,
    "oracles": make_oracles,
}


def main() -> None:
    """Make the parts that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("--round", type=int, default=1, help="round of the hypernetwork, from 1")
    parser.add_argument("--set", action="append", default=[], help="SECTION.FIELD=VALUE of the run")
    options = parser.parse_args()
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
