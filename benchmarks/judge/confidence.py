"""Confidence of a hypernetwork: fitted on tasks that training set aside, judged on unseen tasks.

    python benchmarks/judge/confidence.py --data DIR --work WORK [--store FOLDER]

The fit sees tasks of training alone: their descriptions, the same with their words scrambled, and
junk made by `make_junk`. The unseen tasks and the junk of the paper (`conditions.JUNK`) are read
only to judge it: risk by coverage beside accepting everything and plain cosine distance, AUROC of
real descriptions against junk. WORK keeps the measured gains; an interrupted run goes on.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy
import torch
from judging import PLOTS, parser

from recorded import make_cell
from text_to_lora.analysis.calibrate import calibrate
from text_to_lora.analysis.confidence import FEATURES, Sight, judge_confidence, read_all
from text_to_lora.analysis.confidence_plots import plot_confidence
from text_to_lora.analysis.gains import make_junk, measure_in_parts, plan_probes
from text_to_lora.analysis.selective import auroc
from text_to_lora.errors import T2LWarning
from text_to_lora.evaluation.conditions import JUNK
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.hypernet.checkpoint import store_confidence
from text_to_lora.serving.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.families import families
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.data import split_by_group

FRESH = 120  # junk texts of other draws than those of the fit
NOTE = (
    "Second model. The first, one logistic regression on six features, had been judged on these "
    "unseen tasks and junk texts, and lost to cosine against junk; this one was chosen by the "
    "cross-validation on training tasks alone, and judged once."
)


def main() -> None:
    """Calibrate, then judge on unseen tasks."""
    arguments = parser(__doc__)
    arguments.set_defaults(rows=8)
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default embedded)")
    arguments.add_argument("--work", type=Path, required=True, help="folder of measured gains")
    arguments.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots")
    arguments.add_argument("--store", type=Path, help="hypernetwork folder that gets the file")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", T2LWarning)  # long descriptions, one line each
    t2l = TextToLora.from_pretrained(options.model, cache_dir=options.work / "embeddings")
    identity = {
        "hypernet": t2l.fingerprint,
        "split": options.split,
        "rows_per_task": options.rows,
        "row_seed": options.row_seed,
    }
    cell = make_cell(
        options.out / "confidence.json",
        lambda: judge(t2l, options),
        identity=identity,
        threads=options.threads,
    )
    plot_confidence(cell["unseen"], options.plots / "confidence.png")
    plot_confidence(cell["calibration"]["cross_validated"], options.plots / "confidence-fit.png")
    if options.store:
        store_confidence(options.store, options.work / "confidence.safetensors")


def judge(t2l: TextToLora, options: Any) -> dict[str, Any]:
    """Fit on the tasks set aside, and judge on the unseen ones."""
    base, tokenizer = load_base(t2l.spec.base.name, spec=t2l.spec)
    recorded = t2l.training["data"]
    kept, aside = split_by_group(load_data_dir(options.data), recorded["validation_one_in"])
    made = families(
        kept,
        seed=recorded["family_seed"],
        split="validation",
        num_tasks=recorded["validation_family_tasks"],
    )
    sight = Sight(t2l.encode, lambda texts: t2l.generate(texts).weights, t2l.encoder.count_tokens)
    confidence, report = calibrate(
        base=base,
        tokenizer=tokenizer,
        sight=sight,
        hypernet=t2l.fingerprint,
        seen=kept,
        unseen=aside,
        families=made,
        output_dir=options.work,
        seed=options.row_seed,
        progress=lambda line: print(line, flush=True),
    )
    unseen = load_data_dir(options.data, options.split)
    gains = measure_in_parts(
        options.work / "gains",
        options.split,
        Scorer(base, tokenizer, max_new_tokens=0),
        sight.generate,
        unseen,
        plan_probes(unseen, seed=options.row_seed, scrambled=0, junk=len(JUNK), junk_texts=JUNK),
        hypernet=t2l.fingerprint,
        rows_per_task=options.rows,
        seed=options.row_seed,
        examples=Task.scored,
        progress=lambda line: print(line, flush=True),
    )
    fresh = make_junk(kept, FRESH, seed=options.row_seed + 2)
    texts = list(dict.fromkeys([*(gain.probe.text for gain in gains), *fresh]))
    features = read_all(confidence.reference, sight, texts)
    chances = numpy.array(confidence.from_features(features))
    places = {text: place for place, text in enumerate(texts)}
    of_gains = [places[gain.probe.text] for gain in gains]
    nearest = features[:, FEATURES.index("nearest")]
    real = {g.probe.text: g.probe.group for g in gains if g.probe.kind == "real"}
    of_real, of_fresh = ([places[text] for text in several] for several in (real, fresh))
    return {
        "note": NOTE,
        "calibration": report,
        "unseen": judge_confidence(
            gains, chances[of_gains], nearest[of_gains], seed=options.row_seed
        ),
        "fresh_junk": {
            way: auroc(
                values[of_real],
                values[of_fresh],
                positive_groups=list(real.values()),
                seed=options.row_seed,
            )
            for way, values in (("confidence", chances), ("cosine", nearest))
        },
        "texts": [
            {
                # The text is of the data; task, kind and order tell which it is.
                **{key: value for key, value in gain.to_dict().items() if key != "text"},
                "confidence": round(float(chances[place]), 4),
                "cosine": round(float(nearest[place]), 4),
            }
            for gain, place in zip(gains, of_gains, strict=True)
        ],
    }


if __name__ == "__main__":
    main()
