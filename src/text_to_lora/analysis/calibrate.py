"""From tasks to a confidence file: gains of held-out tasks measured, features read, the fit judged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from text_to_lora.analysis.confidence import (
    JUNK_TEXTS,
    MOST_POINTS,
    Sight,
    fit_confidence,
    fit_reference,
    measured,
    read_all,
)
from text_to_lora.analysis.gains import Probe, make_junk, measure_in_parts, plan_probes
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.files import write_json
from text_to_lora.hypernet.confidence import (
    CONFIDENCE_FILE,
    FEATURES,
    Confidence,
    save_confidence,
)
from text_to_lora.outputs import one_job_a_folder
from text_to_lora.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT, VERSION = "text-to-lora calibration", 1
SEEN_ROWS = 4  # of each training task
# (real, scrambled, junk) texts of each task.
TEXTS = {"unseen": (4, 2, 2), "families": (3, 1, 1), "seen": (1, 0, 0)}


@one_job_a_folder
def calibrate(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sight: Sight,
    hypernet: str,
    seen: Sequence[Task],
    unseen: Sequence[Task],
    families: Sequence[Task] = (),
    output_dir: Path | str,
    rows_per_task: int = 8,
    max_length: int = 512,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Confidence, dict[str, Any]]:
    """Fit a hypernetwork's confidence; give it and what is known of it.

    sight: of the hypernetwork; hypernet: its fingerprint
    seen: tasks that it was trained on, scored on rows that it was not (idx % 10 == 9)
    unseen: training tasks of groups that were set aside, scored on any rows
    families: made tasks of families that were set aside
    output_dir: receives `gains/`, which resumes, `confidence.safetensors` and `confidence.json`
    rows_per_task: of unseen tasks; seen ones have SEEN_ROWS

    Raises ConfigError when there are no seen tasks or too few groups of unseen ones.
    """
    say = progress or (lambda line: None)
    known = [task for task in seen if task.validation()]
    if not known or not unseen:
        raise ConfigError(
            f"{len(known)} training tasks with held-out rows and {len(unseen)} tasks set aside; "
            "calibration needs both"
        )
    if len(known) > MOST_POINTS:
        known = Random(f"reference/{seed}").sample(known, MOST_POINTS)
    folder = Path(output_dir)
    scorer = Scorer(base, tokenizer, max_new_tokens=0, max_length=max_length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", T2LWarning)  # long descriptions are cut, one by one
        parts = {
            name: measure_in_parts(
                folder / "gains",
                name,
                scorer,
                sight.generate,
                tasks,
                _probes(name, tasks, seed),
                hypernet=hypernet,
                rows_per_task=rows,
                seed=seed,
                examples=examples,
                progress=say,
            )
            for name, tasks, rows, examples in (
                ("unseen", unseen, rows_per_task, _every),
                ("families", families, rows_per_task, _every),
                ("seen", known, SEEN_ROWS, Task.validation),
            )
        }
        held_out = [*parts["unseen"], *parts["families"]]
        say("reading features")
        reference = fit_reference(sight, parts["seen"])
        confidence = fit_confidence(
            reference,
            measured(reference, sight, held_out),
            measured(reference, sight, parts["seen"], own_points=True),
            read_all(reference, sight, make_junk(seen, JUNK_TEXTS, seed=seed + 1, wide=True)),
            hypernet=hypernet,
        )
    report = {
        "format": FORMAT,
        "version": VERSION,
        "hypernet": hypernet,
        "seen_tasks": len(known),
        "rows_per_task": {"seen": SEEN_ROWS, "unseen": rows_per_task},
        "seed": seed,
        "features": list(FEATURES),
        "coefficients": confidence.coefficients.tolist(),
        "intercepts": confidence.intercepts.tolist(),
        "junk_share": float(confidence.junk_share),
        **confidence.fit,
    }
    save_confidence(folder / CONFIDENCE_FILE, confidence)
    write_json(folder / "confidence.json", report)
    return confidence, report


def _probes(name: str, tasks: Sequence[Task], seed: int) -> list[Probe]:
    real, scrambled, junk = TEXTS[name]
    return plan_probes(tasks, seed=seed, real=real, scrambled=scrambled, junk=junk)


def _every(task: Task) -> Sequence[Any]:
    """Rows of a task that no training saw."""
    return task.examples
