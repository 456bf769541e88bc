"""Confidence on many unseen tasks: hypernetworks of the ablations that left training tasks out.

    python benchmarks/judge/confidence_folds.py --data DIR --cells CELLS --work WORK

The shipped hypernetwork leaves 25 source groups aside, too few to choose a confidence by. Those of
`cells.py` that were trained on a part of the tasks leave 100 and more: each is calibrated and judged
on them, every group foretold by the others. Tasks of training alone are read: features were chosen by
these figures, and `confidence.py` judges the choice on unseen tasks.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from judging import RESULTS

from recorded import make_cell
from text_to_lora.analysis.calibrate import SEEN_ROWS
from text_to_lora.analysis.confidence import (
    JUNK_TEXTS,
    Sight,
    fit_confidence,
    fit_reference,
    measured,
    read_all,
)
from text_to_lora.analysis.gains import make_junk, measure_in_parts, plan_probes
from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.serving.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.data import recall_split

CELLS = ("tasks-64", "tasks-128", "tasks-256", "descriptions-1")
ROWS = 6
REAL, JUNK_A_TASK = 3, 1


def main() -> None:
    """Calibrate and judge every hypernetwork."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = arguments.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--cells", type=Path, required=True, help="folder of the runs of cells.py")
    add("--work", type=Path, required=True, help="folder of measured gains")
    add("--out", type=Path, default=RESULTS, help="folder of the JSON")
    add("--seed", type=int, default=0, help="of texts, rows and resamples")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", T2LWarning)  # long descriptions, one line each
    make_cell(
        options.out / "confidence-folds.json",
        lambda: {"hypernets": {name: judge(options, name) for name in CELLS}},
        identity={"cells": list(CELLS), "rows_per_task": ROWS, "seed": options.seed},
        threads=options.threads,
    )


def judge(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Fit on the tasks that a hypernetwork was not trained on, each group foretold by the others."""
    t2l = TextToLora.from_pretrained(
        options.cells / name / "hypernet", cache_dir=options.work / "embeddings"
    )
    base, tokenizer = load_base(t2l.spec.base.name, spec=t2l.spec)
    sight = Sight(t2l.encode, lambda texts: t2l.generate(texts).weights, t2l.encoder.count_tokens)
    seen, unseen = recall_split(load_data_dir(options.data), t2l.training["data"])
    known = [task for task in seen if task.validation()]
    scorer = Scorer(base, tokenizer, max_new_tokens=0)

    def measure(part: str, tasks: list[Task], rows: int, **kinds: int) -> Any:
        return measure_in_parts(
            options.work / name,
            part,
            scorer,
            sight.generate,
            tasks,
            plan_probes(tasks, seed=options.seed, scrambled=0, **kinds),
            hypernet=t2l.fingerprint,
            rows_per_task=rows,
            seed=options.seed,
            examples=Task.validation if part == "seen" else lambda task: task.examples,
            progress=lambda line: print(f"{name}: {line}", flush=True),
        )

    points = measure("seen", known, SEEN_ROWS, real=1, junk=0)
    held_out = measure("unseen", unseen, ROWS, real=REAL, junk=JUNK_A_TASK)
    reference = fit_reference(sight, points)
    confidence = fit_confidence(
        reference,
        measured(reference, sight, held_out),
        measured(reference, sight, points, own_points=True),
        read_all(reference, sight, make_junk(seen, JUNK_TEXTS, seed=options.seed + 1, wide=True)),
        hypernet=t2l.fingerprint,
    )
    return {
        "seen_tasks": len(known),
        "coefficients": confidence.coefficients.tolist(),
        **confidence.fit,
    }


if __name__ == "__main__":
    main()
