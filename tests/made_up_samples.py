"""Samples with random values, and the folder that an evaluation would leave of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from text_to_lora.evaluation.samples import (
    FORMAT,
    VERSION,
    Evaluation,
    Sample,
    in_order,
    sample_path,
    write_samples,
)
from text_to_lora.files import write_json

GROUPS = {"t1": "a", "t2": "a", "t3": "b", "t4": "c", "t5": "d", "t6": "e"}
SETTINGS = {"base": {"config": "x"}, "seed": 0, "rows_per_task": 3, "provenance": {"hypernet": "h"}}


def make_sample(task: str, idx: int, nll: float, **others: Any) -> Sample:
    """A sample of which a test sets what it is about."""
    fields: dict[str, Any] = {
        "condition": "base",
        "group": task,
        "metric": "exact_match",
        "adapter_text": "",
        "prompt_text": "",
        "input": f"input {task} {idx}",
        "reference": "y",
        "answer": "z",
        "tokens": 2,
        "score": 0.0,
        "in_labels": None,
        "label_score": None,
        "outputs": ("y",),
        "cut": False,
    }
    return Sample(task=task, idx=idx, nll=nll, **(fields | others))


def draw(seed: int, shift: float, **others: Any) -> list[Sample]:
    """Three rows of each task of GROUPS with random values around `shift`."""
    rng = numpy.random.default_rng(seed)
    return [
        make_sample(
            task,
            idx,
            float(shift + rng.normal()),
            group=group,
            score=float(rng.integers(2)),
            in_labels=bool(rng.integers(2)),
            answer=str(rng.choice(["y", "z"])),
            **others,
        )
        for task, group in GROUPS.items()
        for idx in (5, 6, 7)
    ]


def draw_conditions(seed: int = 0) -> dict[str, list[Sample]]:
    """Every kind, of which paraphrases and the oracle do not have all tasks."""
    shifts = {
        "base": 5.0,
        "in_prompt": 2.0,
        "icl": 3.0,
        "mean": 4.5,
        "retrieval": 4.0,
        "arrow": 4.2,
        "multitask": 4.0,
        "multitask_in_prompt": 2.5,
        "hyperdecoder": 3.4,
        "matched": 3.0,
        "matched_in_prompt": 2.2,
        "paraphrase.1": 3.0,
        "paraphrase.2": 3.3,
        "shuffled.1": 5.0,
        "shuffled.2": 5.5,
        "shuffled.3": 6.0,
        "junk": 5.0,
        "oracle": 1.0,
    }
    lacks = {"paraphrase.1": "t2", "paraphrase.2": "t2 t4", "oracle": "t5"}
    return {
        name: [
            s for s in draw(100 * seed + place, shift) if s.task not in lacks.get(name, "").split()
        ]
        for place, (name, shift) in enumerate(shifts.items())
    }


def write_run(
    folder: Path,
    conditions: Mapping[str, Sequence[Sample]],
    *,
    settings: Mapping[str, Any] = SETTINGS,
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A folder as an evaluation leaves it, without its report."""
    metadata = {"seconds": 1.5, "signature": [], "shots_left_out": 0}
    for name, samples in conditions.items():
        write_samples(sample_path(folder, name), samples, metadata)
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "version": VERSION,
            "settings": {**settings, "tasks": {}},
            "conditions": {
                name: {"kind": name.split(".")[0], "about": (about or {}).get(name, {})}
                for name in conditions
            },
        },
    )
    return folder


def evaluation_of(conditions: Mapping[str, Sequence[Sample]]) -> Evaluation:
    """What is read from such a folder."""
    samples: dict[str, list[Sample]] = {}
    for name, members in conditions.items():
        samples.setdefault("shuffled" if "shuffled" in name else name, []).extend(members)
    facts = {"about": {}, "seconds": 1.5, "shots_left_out": 0}
    return Evaluation(
        SETTINGS,
        {name: samples[name] for name in in_order(samples)},
        {name: dict(facts) for name in samples},
    )
