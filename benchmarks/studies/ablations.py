"""Ablations: one hypernetwork a cell, trained on equally many rows, judged on unseen tasks.

    python -m benchmarks.studies.ablations --data DIR

Every cell starts anew and sees --steps x 32 rows. Nothing is chosen: one learning rate and one length
for all, and the weights of the last step count. A cell's figures are answer NLLs of the unseen tasks
under matched, shuffled and junk descriptions, and with adapter and description in the prompt both, to
be paired with those of `default-0`; the spread of the two seeds of the default is the noise floor. Then
the share of right answers among probes with words that training never had.

--cells NAMES makes some of them. What is finished is kept, and an interrupted training goes on from
its checkpoint. With a GPU, at the paper's settings: --recipe mistral-7b --steps 20000 --device cuda
--base mistralai/Mistral-7B-Instruct-v0.2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.lib import RESULTS, ROOT, make_cell
from benchmarks.studies.judge import Judge, Means, difference, parser
from benchmarks.studies.validation import score_adapters_on_words
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
from text_to_lora.files import read_json
from text_to_lora.generate import TextToLora
from text_to_lora.training.config import load_recipe
from text_to_lora.training.sft import train_sft

PROBES = 128  # of words that training never had
REFERENCES = "references"
VARIANTS: dict[str, tuple[str, ...]] = {
    **{f"default-{seed}": (f"run.seed={seed}",) for seed in range(2)},
    "in-prompt": ("data.in_prompt=1", "data.definition_in=system"),
    "quarter-in-prompt": ("data.in_prompt=0.25", "data.definition_in=system"),
    "sentence": ("tokens.read=false", "tokens.direct=[]"),
    "no-families": ("data.family_share=0", "data.family_tasks=0"),
}
"""The overrides of every trained cell."""

SHARED = (
    "data.in_prompt=0",
    "data.eval_rows=0",  # validation would take of the run's time, and the last weights count
    "run.log_every=10",
    "run.save_every=100",
    "run.keep_checkpoints=1",
    "run.seed=0",
)


def make(name: str, options: argparse.Namespace, judge: Judge) -> None:
    """Make a cell, unless it is there.

    Raises ConfigError for a name that there is not.
    """
    identity, run = judge.identity(), partial(references, judge)
    if name != REFERENCES:
        if name not in VARIANTS:
            names = ", ".join((REFERENCES, *VARIANTS))
            raise ConfigError(f"no cell {name!r}; there are {names}")
        training = {"recipe": options.recipe, "steps": options.steps}
        identity["training"] = training | {"overrides": list(VARIANTS[name])}
        run = partial(train, name, options, judge)
    make_cell(options.out / f"{name}.json", run, identity=identity, threads=options.threads)


def references(judge: Judge) -> dict[str, Any]:
    """The base without and with the description in its prompt."""
    return {
        "groups": {task.name: group_of(task) for task in judge.tasks},
        "nll": judge.nll(judge.plan(["base", "in_prompt"])),
    }


def train(name: str, options: argparse.Namespace, judge: Judge) -> dict[str, Any]:
    """Train one cell's hypernetwork and score it."""
    folder = options.work / name
    settings = [
        *SHARED,
        f"base.name={options.base}",
        f"data.data_dir={options.data}",
        f"encoder.cache_dir={options.work / 'embeddings'}",
        f"run.steps={options.steps}",
        *VARIANTS[name],
    ]
    config = load_recipe(options.recipe, settings)
    trained = train_sft(config, output_dir=folder, report=partial(print, f"{name}:", flush=True))
    t2l = TextToLora.from_pretrained(trained, device=options.device)
    kinds = ["matched", "shuffled", "junk", "matched_in_prompt"]
    return {
        "rows_seen": options.steps * config.data.tasks_per_batch * config.data.examples_per_task,
        "nll": judge.nll(judge.plan(kinds, lambda texts: t2l.generate(texts).weights)),
        "words": score_adapters_on_words(t2l, PROBES),
    }


def noise_floor(seeds: Sequence[Means], bootstrap: GroupBootstrap) -> float | None:
    """The largest difference in mean NLL between two seeds, nats a token; None for one seed."""
    differences = (abs(difference(a, b, bootstrap).mean) for a, b in combinations(seeds, 2))
    return max(differences, default=None)


def verdict_of(change: Interval, floor: float | None) -> str:
    """ "better" or "worse" where a change is beyond the noise floor and clear of zero, else "none"."""
    if not change.clear_of_zero or (floor is not None and abs(change.mean) <= floor):
        return "none"
    return "better" if change.mean < 0 else "worse"


def summarise(folder: Path) -> dict[str, Any] | None:
    """The cells of a folder for the page, against seed 0 of the default; None without that.

    Each with its NLL, the paired differences from the default and the controls, and the verdict against
    the noise floor of the seeds.
    """
    cells = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    if not {REFERENCES, "default-0"} <= cells.keys():
        return None
    reference = cells.pop(REFERENCES)
    bootstrap = GroupBootstrap(reference["groups"])
    matched = {name: cell["nll"]["matched"] for name, cell in cells.items()}
    default = matched["default-0"]
    seeds = [means for name, means in matched.items() if name.startswith("default-")]
    floor = noise_floor(seeds, bootstrap)
    rows = {}
    for name, cell in cells.items():
        change = difference(matched[name], default, bootstrap)
        rows[name] = {
            "nll": bootstrap.mean(matched[name]).to_dict(),
            "nll_in_prompt": bootstrap.mean(cell["nll"]["matched_in_prompt"]).to_dict(),
            "words": cell["words"],
            "minus_default": change.to_dict(),
            "verdict": "" if name.startswith("default-") else verdict_of(change, floor),
            **{
                f"minus_{other}": difference(matched[name], cell["nll"][other], bootstrap).to_dict()
                for other in ("shuffled", "junk")
            },
        }
    return {
        "floor": floor,
        "rows_seen": cells["default-0"]["rows_seen"],
        "references": {n: bootstrap.mean(m).to_dict() for n, m in reference["nll"].items()},
        "cells": rows,
    }


def main() -> None:
    """Make the cells that the command line names."""
    arguments = parser(__doc__)
    add = arguments.add_argument
    add("--base", default="embedded", help="base model: a folder or a name of the hub")
    add("--recipe", default="embedded", help="whose settings hold where no cell says otherwise")
    add("--steps", type=int, default=400, help="optimiser steps of 32 rows (default 400)")
    add("--cells", help="names with commas; default: all")
    add("--work", type=Path, default=ROOT / "runs" / "cells", help="folder of the runs")
    arguments.set_defaults(out=RESULTS / "ablations")
    options = arguments.parse_args()
    judge = Judge(options, options.base)
    for name in options.cells.split(",") if options.cells else (REFERENCES, *VARIANTS):
        make(name, options, judge)


if __name__ == "__main__":
    main()
