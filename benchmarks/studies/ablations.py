"""Ablations: one hypernetwork a cell, trained on equally many rows, judged on unseen tasks.

    python -m benchmarks.studies.ablations --data DIR --base BASE

Every cell starts anew and sees --steps x 32 rows: about eight minutes on two CPU cores for the
default (what each took stands in its cell). Nothing is chosen: one learning rate and one length for
all, and the weights of the last step count. A cell's figures are answer NLLs of the unseen tasks
under matched, shuffled and junk descriptions, to be paired with those of `default-0`; the spread of
the three seeds of the default is the noise floor. Two cells are made with a second seed.

--cells NAMES makes some of them. What is finished is kept, and an interrupted training goes on from
its checkpoint.

With a GPU, the same cells at the paper's settings:

    python -m benchmarks.studies.ablations --data DIR --recipe mistral-7b \\
        --base mistralai/Mistral-7B-Instruct-v0.2 --alias mistralai/Mistral-7B-Instruct-v0.2 \\
        --device cuda --steps 20000 --out OUT
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.lib import RESULTS, ROOT, make_cell
from benchmarks.studies.judge import Judge, Means, parser
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
from text_to_lora.files import read_json
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import load_hypernet
from text_to_lora.training.config import load_recipe
from text_to_lora.training.sft import train_sft

SEEDS = 3
REPEATED = ("swapped", "no-families")  # what is said of training against the input, with two seeds
COUNTS = (64, 128, 256)  # of real tasks; the default has all
DESCRIPTIONS = (1, 16, 128)  # of the tasks that have MANY
MANY = 200
HYPERDECODER = "hyperdecoder"
IN_PROMPT = "in-prompt"
REFERENCES = "references"

SHARED = (
    "data.in_prompt=false",
    "data.swapped_examples=0",
    "data.swapped_after=0",
    "data.eval_rows=0",  # validation would take of the run's time, and the last weights count
    "run.log_every=50",
    "run.save_every=100",
    "run.keep_checkpoints=1",
)


def variants(base: str) -> dict[str, tuple[str, ...]]:
    """The overrides of every trained cell, by name."""
    changes = {
        **{f"default-{seed}": (f"run.seed={seed}",) for seed in range(SEEDS)},
        **{f"tasks-{count}": (f"data.count={count}",) for count in COUNTS},
        **{
            f"descriptions-{count}": (
                f"data.min_descriptions={MANY}",
                "data.validation_one_in=0",  # all 241 that have as many, no group is set aside
                f"data.descriptions_per_task={count}",
            )
            for count in DESCRIPTIONS
        },
        "encoder-base": (f"encoder.name=language-model:{base}",),
        "size-M": ("hypernet.head=shared",),
        "size-S": ("hypernet.head=rank",),
        IN_PROMPT: ("data.in_prompt=true", "data.definition_in=system"),
        "no-families": ("data.family_share=0", "data.family_tasks=0"),
        "distillation": ("objective.distill_weight=1.0",),
        "swapped": ("data.swapped_examples=1",),
        HYPERDECODER: ("hypernet.reads=input",),
    }
    return changes | {f"{name}-1": (*changes[name], "run.seed=1") for name in REPEATED}


class Cells:
    """The cells of the ablations."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.judge = Judge(options, str(options.base))
        self.variants = variants(str(options.base))

    def make(self, name: str) -> dict[str, Any]:
        """A cell, made unless it is there.

        Raises ConfigError for a name that there is not.
        """
        if name != REFERENCES and name not in self.variants:
            names = ", ".join((REFERENCES, *self.variants))
            raise ConfigError(f"no cell {name!r}; there are {names}")
        options = self.options
        overrides = [
            "encoder.name=language-model:BASE"
            if text.startswith("encoder.name=language-model:")
            else text
            for text in self.variants.get(name, ())
        ]
        identity = self.judge.identity() | {
            "training": {"recipe": options.recipe, "steps": options.steps, "overrides": overrides}
        }
        if name == REFERENCES:
            identity = self.judge.identity()
        return make_cell(
            options.out / f"{name}.json",
            self._references if name == REFERENCES else lambda: self._trained(name),
            identity=identity,
            threads=options.threads,
        )

    def _references(self) -> dict[str, Any]:
        """The base without and with the description in its prompt."""
        return {
            "groups": {task.name: group_of(task) for task in self.judge.tasks},
            "nll": self.judge.nll(self.judge.plan(["base", "in_prompt"])),
        }

    def _trained(self, name: str) -> dict[str, Any]:
        options = self.options
        folder = options.work / name
        settings = [
            *SHARED,
            f"base.name={options.base}",
            f"base.alias={options.alias}",
            f"data.data_dir={options.data}",
            f"encoder.cache_dir={options.work / 'embeddings'}",
            f"run.steps={options.steps}",
            "run.seed=0",
            *self.variants[name],
        ]
        config = load_recipe(options.recipe, settings)
        trained = train_sft(
            config, output_dir=folder, report=lambda line: print(f"{name}: {line}", flush=True)
        )
        last = [line for line in read_history(folder) if "tokens" in line][-1]
        t2l = TextToLora.from_pretrained(trained, device=options.device)

        def generate(texts: Any) -> Any:
            return t2l.generate(texts).weights

        kinds = ["matched", "shuffled", "junk"]
        if name == HYPERDECODER:
            kinds = ["hyperdecoder"]
        elif name == IN_PROMPT:
            kinds.append("matched_in_prompt")
        nll = self.judge.nll(self.judge.plan(kinds, generate))
        if name == HYPERDECODER:
            nll = {"matched": nll["hyperdecoder"]}
        return {
            "parameters": load_hypernet(trained).hypernet.num_parameters,
            "rows_seen": options.steps
            * config.data.tasks_per_batch
            * config.data.examples_per_task,
            "tokens_seen": last["tokens"],
            "train_seconds": round(last["seconds"], 1),
            "last_loss": last["loss"],
            "nll": nll,
        }


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's history."""
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# The page


def difference(first: Means, second: Means, bootstrap: GroupBootstrap) -> Interval:
    """Mean over groups of first - second on the tasks that both have.

    Raises ConfigError when there is none.
    """
    return bootstrap.mean({name: first[name] - second[name] for name in first if name in second})


def noise_floor(seeds: Sequence[Means], bootstrap: GroupBootstrap) -> float:
    """The largest difference in mean NLL between two seeds of the default, nats a token.

    Raises ConfigError for less than two seeds.
    """
    if len(seeds) < 2:
        raise ConfigError(f"{len(seeds)} seeds of the default; a noise floor needs 2 or more")
    return max(abs(difference(a, b, bootstrap).mean) for a, b in combinations(seeds, 2))


def verdict_of(change: Interval, floor: float) -> str:
    """ "better" or "worse" where a change is beyond the noise floor and clear of zero, else "none"."""
    if not change.clear_of_zero or abs(change.mean) <= floor:
        return "none"
    return "better" if change.mean < 0 else "worse"


def summarise(folder: Path) -> dict[str, Any] | None:
    """The cells of a folder for the page, against seed 0 of the default; None without that.

    Each with its NLL, the paired differences from the default, the controls and the base, and the
    verdict against the noise floor of the seeds.
    """
    cells = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    if not {REFERENCES, "default-0", "default-1"} <= cells.keys():
        return None
    references = cells.pop(REFERENCES)
    bootstrap = GroupBootstrap(references["groups"])
    matched = {name: cell["nll"]["matched"] for name, cell in cells.items()}
    default = matched["default-0"]
    seeds = [means for name, means in matched.items() if name.startswith("default-")]
    floor = noise_floor(seeds, bootstrap)
    rows = {}
    for name, cell in cells.items():
        change = difference(matched[name], default, bootstrap)
        others = {**references["nll"], **cell["nll"]}
        rows[name] = {
            "parameters": cell["parameters"],
            "nll": bootstrap.mean(matched[name]).to_dict(),
            "minus_default": change.to_dict(),
            "verdict": "" if name.startswith("default-") else verdict_of(change, floor),
            **{
                f"minus_{other}": difference(matched[name], others[other], bootstrap).to_dict()
                for other in ("shuffled", "junk", "base")
                if other in others
            },
        }
    return {"floor": floor, "rows_seen": cells["default-0"]["rows_seen"], "cells": rows}


def main() -> None:
    """Make the cells that the command line names."""
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--base", type=Path, required=True, help="base model: a folder or a name of the hub")
    add("--alias", default="text-to-lora-embedded", help="name that adapters carry for the base")
    add("--recipe", default="embedded", help="whose settings hold where no cell says otherwise")
    add("--steps", type=int, default=600, help="optimiser steps of 32 rows (default 600)")
    add("--cells", help="names with commas; default: all")
    add("--work", type=Path, default=ROOT / "runs" / "cells", help="folder of the runs")
    arguments.set_defaults(out=RESULTS / "ablations")
    options = arguments.parse_args()
    names = options.cells.split(",") if options.cells else [REFERENCES, *variants("BASE")]
    cells = Cells(options)
    for name in names:
        cells.make(name)


if __name__ == "__main__":
    main()
