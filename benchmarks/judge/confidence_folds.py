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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from judging import RESULTS
from numpy.typing import NDArray
from torch.nn import functional

from recorded import make_cell
from text_to_lora.analysis.calibrate import SEEN_ROWS
from text_to_lora.analysis.confidence import (
    AT_ONCE,
    JUNK_TEXTS,
    Floats,
    Measured,
    Sight,
    fit_confidence,
    fit_reference,
    measured,
    read_all,
)
from text_to_lora.analysis.gains import Gain, make_junk, measure_in_parts, plan_probes
from text_to_lora.analysis.selective import Selective, auroc
from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.hypernet.confidence import FEATURES, Reference
from text_to_lora.models.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.data import recall_split

CELLS = ("tasks-64", "tasks-128", "tasks-256", "descriptions-1")
ROWS = 6
REAL, JUNK_A_TASK = 3, 1
WARMTH = 0.05  # of the cosine, in the weights of neighbours' gains


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
    base, tokenizer = load_base(spec=t2l.spec)
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
    judged = measured(reference, sight, held_out)
    confidence = fit_confidence(
        reference,
        judged,
        measured(reference, sight, points, own_points=True),
        read_all(reference, sight, make_junk(seen, JUNK_TEXTS, seed=options.seed + 1, wide=True)),
        hypernet=t2l.fingerprint,
    )
    return {
        "seen_tasks": len(known),
        "coefficients": confidence.coefficients.tolist(),
        **confidence.fit,
        "explored": explore(judged, points, reference, sight),
    }


def explore(
    judged: Measured, points: Sequence[Gain], reference: Reference, sight: Sight
) -> dict[str, Any]:
    """What foretells the sign of a gain among real texts, as AUROC; what a perfect detector is worth.

    perfect_detector: area of the share without gain, all real texts before all junk and inside by
        cosine, minus that by cosine alone
    """
    real = numpy.array([gain.probe.kind == "real" for gain in judged.gains])
    texts = [gain.probe.text for gain in judged.gains]
    distinct = list(dict.fromkeys(texts))
    place = numpy.array([distinct.index(text) for text in texts])
    embeddings, norms = [], []
    with torch.no_grad():
        for start in range(0, len(distinct), AT_ONCE):
            part = distinct[start : start + AT_ONCE]
            embeddings.append(functional.normalize(sight.encode(part).double(), dim=-1))
            weights = sight.generate(part)
            factors = [*weights.a.values(), *weights.b.values()]
            norms.append(sum(factor.flatten(1).double().square().sum(1) for factor in factors))
    unit = torch.cat(embeddings)
    near = (unit @ reference.points.double().mT / WARMTH).softmax(1)
    gains = torch.tensor([gain.gain for gain in points], dtype=torch.float64).clamp(-2, 2)
    scores = {
        **{name: judged.features[:, i] for i, name in enumerate(FEATURES)},
        "length": numpy.log(sight.count_tokens(distinct))[place],
        "norm of the factors": torch.cat(norms).numpy()[place],
        "gain of neighbours": (near @ gains).numpy()[place],
        "ridge on the embedding": _ridge(unit.numpy()[place], judged, real),
    }
    helps = judged.helps > 0
    nearest = judged.features[:, FEATURES.index("nearest")]
    losses = Selective((~helps).astype(float), tuple(judged.groups.tolist()))
    return {
        "auroc": {
            name: auroc(values[real & helps], values[real & ~helps])["mean"]
            for name, values in scores.items()
        },
        "auroc_of_junk": auroc(nearest[~real & helps], nearest[~real & ~helps])["mean"],
        "perfect_detector": losses.difference(10 * real + nearest, nearest),
    }


def _ridge(inputs: Floats, judged: Measured, real: NDArray[numpy.bool_]) -> Floats:
    """Gains foretold from inputs, each tenth of the groups by the others."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    gains = numpy.clip([gain.gain for gain in judged.gains], -2, 2)
    foretold = numpy.zeros(len(gains))
    for others, left_out in GroupKFold(10).split(inputs, gains, judged.groups):
        kept = others[real[others]]
        foretold[left_out] = (
            Ridge(alpha=1.0).fit(inputs[kept], gains[kept]).predict(inputs[left_out])
        )
    return foretold


if __name__ == "__main__":
    main()
