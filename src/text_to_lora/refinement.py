"""A sentence and rows in, a refined adapter out: generating, then training on the user's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from text_to_lora.errors import ConfigError
from text_to_lora.files import lock
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.tasks.user_rows import check_rows
from text_to_lora.training.checkpoints import RunFolder
from text_to_lora.training.refine import Refined, refine_adapters
from text_to_lora.training.refine_match import UNRELATED
from text_to_lora.training.refine_settings import Limits, RefineSettings, RefineTask

Examples = Sequence[Sequence[tuple[str, str]]]


def refine(
    descriptions: Sequence[str],
    examples: Examples,
    *,
    model: str | Path = "embedded",
    seconds: float | None = 60.0,
    steps: int | None = None,
    **options: Any,
) -> Adapters:
    """Turn descriptions and a few rows for each into adapters, all in one training.

    examples: the rows (input, answer) of each description
    model: hypernetwork, as for `TextToLora.from_pretrained`
    seconds, steps: limits of the training; None for no such limit
    options: as for `refine_with`

    Raises ConfigError when rows, limits or options cannot work, and what loading models raises.
    """
    t2l = TextToLora.from_pretrained(model)
    return refine_with(t2l, descriptions, examples, seconds=seconds, steps=steps, **options)


def refine_with(
    t2l: TextToLora,
    descriptions: Sequence[str],
    examples: Examples,
    *,
    seconds: float | None = 60.0,
    steps: int | None = None,
    names: Sequence[str] = (),
    state_dir: Path | str | None = None,
    resume: bool = True,
    report: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> Adapters:
    """Generate one adapter a description and train each on its rows, with a loaded hypernetwork.

    names: of the tasks, for messages; those of a single task and of numbered tasks otherwise
    state_dir: folder for the state of unfinished work; a call with equal inputs goes on from it, also
        after it was finished with a lower limit. None keeps no state
    resume: False deletes the state that is there
    report: gets lines of progress
    settings: fields of `RefineSettings`, such as keep_out=0.25, rate=1e-3, pull=10.0

    The refined adapters are in float32, and their provenance has the key "refinement".

    Raises ConfigError when rows, limits or settings cannot work, or when another job has the state.
    """
    limits = Limits(seconds, steps)
    chosen = RefineSettings.make(**settings)
    if len(descriptions) != len(examples):
        raise ConfigError(
            f"{len(examples)} lists of rows for {len(descriptions)} descriptions; give one each"
        )
    labels = list(names) or _default_names(len(descriptions))
    rows = [
        check_rows(task_rows, description, task=label)
        for task_rows, description, label in zip(examples, descriptions, labels, strict=True)
    ]
    start, unrelated = t2l.generate(descriptions), t2l.generate(UNRELATED).weights
    tasks = [
        RefineTask(label, description, task_rows, origin=t2l.fingerprint)
        for label, description, task_rows in zip(labels, start.descriptions, rows, strict=True)
    ]

    def train(state: RunFolder | None) -> Refined:
        options: dict[str, Any] = {"state": state, "resume": resume, "report": report}
        inputs = (start.weights, tasks, *t2l.base, chosen, limits)
        return refine_adapters(*inputs, unrelated=unrelated, **options)

    if state_dir is None:
        refined = train(None)
    else:
        folder = Path(state_dir)
        refusal = f"another job refines with the state in {str(folder)!r}"
        with lock(folder / ".lock", wait_seconds=0, refusal=refusal):
            refined = train(RunFolder(folder))
    provenance = tuple(
        {**entry, "refinement": record}
        for entry, record in zip(start.provenance, refined.records, strict=True)
    )
    return Adapters(refined.weights, start.descriptions, provenance, start.nearest)


def _default_names(count: int) -> list[str]:
    return ["the task"] if count == 1 else [f"task {number}" for number in range(1, count + 1)]
