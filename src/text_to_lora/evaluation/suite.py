"""The suite: tasks and conditions -> samples of every row -> report; finished work is not done again."""

from __future__ import annotations

import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from text_to_lora.errors import ConfigError, T2LWarning, list_some
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.conditions.condition import Condition, Setup
from text_to_lora.evaluation.identity import base_identity, check_signature, signature_of
from text_to_lora.evaluation.report import REPORT_FILES, build_report
from text_to_lora.evaluation.samples import (
    FORMAT,
    VERSION,
    Sample,
    read_run,
    read_samples,
    sample_path,
    write_samples,
)
from text_to_lora.evaluation.scoring import (
    Answer,
    Scorer,
    ScoringOptions,
    choose_rows,
    held_out,
)
from text_to_lora.files import check_results, content_hash, one_job_a_folder, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from text_to_lora.evaluation.lm_eval import LmEvalScorer

    RowScorer = Scorer | LmEvalScorer

# Rows that are scored together, and lost when a run stops; their adapters are in memory together.
ROWS_PER_PART = 256
ADAPTERS_PER_PART = 64

Planned = tuple[Row, Setup]


@one_job_a_folder
def evaluate_suite(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    conditions: Sequence[Condition],
    output_dir: Path | str,
    rows_per_task: int | None = 40,
    seed: int = 0,
    examples: Callable[[Task], Sequence[Example]] = held_out,
    make_scorer: Callable[[PreTrainedModel], RowScorer] | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    **scoring: Unpack[ScoringOptions],
) -> dict[str, Any]:
    """Score tasks under conditions and write samples, tables and plots; give the report.

    conditions: those of `plan_conditions`, or others behind the same protocol
    output_dir: `run.json` (settings, rows, what each condition is made of),
        `samples/<condition>.parquet`, and what `build_report` writes. A condition whose samples are
        there already is not scored again, nor are parts of one that stopped in the middle.
    examples: rows that may be drawn; by default those that nothing is trained on
    make_scorer: gives what scores rows with a model; None for `Scorer` with the options `scoring`
    provenance: JSON of what is evaluated (names, hashes); it has to be equal on resuming
    progress: called with a line about each condition and each part

    Tasks of programs are scored by likelihood alone, and a T2LWarning names them.

    Raises ConfigError for equal names of tasks or conditions, a condition that takes no row, prompts
    that do not fit, or an output folder of another evaluation; TaskDataError for a task without rows.
    """
    _check(tasks, conditions)
    output_dir, report = Path(output_dir), progress or (lambda line: None)
    rows = choose_rows(tasks, rows_per_task=rows_per_task, seed=seed, examples=examples)
    make = make_scorer or (lambda model: Scorer(model, tokenizer, **options))
    options: ScoringOptions = {"label_likelihood": True, **scoring}
    if not options.get("cut_descriptions"):
        options.pop("cut_descriptions", None)  # runs that are older than this option can go on
    scorer = make(base)
    plans = {condition.name: _plan(condition, rows) for condition in conditions}
    every = [planned for plan in plans.values() for planned in plan]
    scorer.check_room([(row, setup.description) for row, setup in every])
    settings = {
        "base": base_identity(base),
        "seed": seed,
        "rows_per_task": rows_per_task,
        **{"max_new_tokens": 32, "max_length": 512, **options},
        "provenance": dict(provenance or {}),
        "tasks": _describe_rows(rows),
    }
    _open_run(output_dir, settings, {c.name: _describe(c, plans[c.name]) for c in conditions})
    report(f"{len(rows)} rows of {len(tasks)} tasks, seed {seed}")
    for place, condition in enumerate(conditions, start=1):
        run = _ConditionRun(output_dir, condition, plans[condition.name])
        for line in run.run(base, scorer, make):
            report(f"{place}/{len(conditions)} {condition.name}: {line}")
    return build_report(output_dir)


class _ConditionRun:
    """One condition on its way to its file of samples, part by part.

    planned: the rows that are scored, and how
    """

    def __init__(self, folder: Path, condition: Condition, planned: Sequence[Planned]) -> None:
        self._path = sample_path(folder, condition.name)
        self._parts_folder = folder / "parts" / condition.name
        self._condition = condition
        self._num_rows = len(planned)
        self._parts = list(_split(planned))

    def run(
        self,
        base: PreTrainedModel,
        scorer: RowScorer,
        make: Callable[[PreTrainedModel], RowScorer],
    ) -> Iterator[str]:
        """Score what is not finished yet; gives lines about the progress.

        scorer: of the base; make: gives that of another model, as Arrow routing has one
        """
        if self._is_finished():
            yield "finished before"
            return
        with self._condition.on(base) as model:
            yield from self._score(scorer if model is base else make(model))

    def _is_finished(self) -> bool:
        """Whether the samples are there.

        Raises ConfigError when they were scored with other adapters. The adapters of the first part
        are made again to tell; those of a library are told apart in run.json.
        """
        if not self._path.exists():
            return False
        signature = signature_of(self._adapters(self._parts[0])[0])
        check_signature(self._path, read_samples(self._path)[1]["signature"], signature)
        return True

    def _score(self, scorer: RowScorer) -> Iterator[str]:
        """Score the parts that are not there yet, and write the samples of all as one file.

        Gives a line about the progress after each part.
        """
        done, seconds = 0, 0.0
        paths = [self._parts_folder / f"{place:05}.parquet" for place in range(len(self._parts))]
        for path, part in zip(paths, self._parts, strict=True):
            started = time.perf_counter()
            weights, adapters = self._adapters(part)
            signature = signature_of(weights)
            if path.exists():
                metadata = read_samples(path)[1]
                check_signature(path, metadata["signature"], signature)
                done, seconds = done + len(part), seconds + metadata["seconds"]
                continue
            answers = scorer.score(
                [row for row, _ in part],
                weights=weights,
                adapters=adapters,
                prompt_texts=[setup.description for _, setup in part],
                shots=[setup.shots for _, setup in part],
            )
            done, seconds = done + len(part), seconds + time.perf_counter() - started
            metadata = {
                "seconds": time.perf_counter() - started,
                "signature": signature,
                "shots_left_out": sum(len(setup.shots) for _, setup in part)
                - sum(answer.shots for answer in answers),
            }
            samples = [
                _sample(self._condition.name, row, setup, answer)
                for (row, setup), answer in zip(part, answers, strict=True)
            ]
            write_samples(path, samples, metadata)
            pace = done / max(seconds, 1e-9)
            left = (self._num_rows - done) / pace
            yield f"{done}/{self._num_rows} rows, {pace:.1f} rows/s, {left:.0f} s left"
        self._join([read_samples(path) for path in paths])

    def _join(self, parts: Sequence[tuple[list[Sample], Mapping[str, Any]]]) -> None:
        """Write the samples of all parts as one file, and take the parts away."""
        metadata = {
            "seconds": round(sum(part["seconds"] for _, part in parts), 1),
            "signature": parts[0][1]["signature"],
            "shots_left_out": sum(part["shots_left_out"] for _, part in parts),
        }
        write_samples(self._path, [sample for samples, _ in parts for sample in samples], metadata)
        shutil.rmtree(self._parts_folder)
        with suppress(OSError):  # parts of another condition are still there
            self._parts_folder.parent.rmdir()

    def _adapters(self, part: Sequence[Planned]) -> tuple[LoraWeights | None, list[int] | None]:
        """The adapters of a part, and which of them each row takes."""
        keys = [setup.adapter for _, setup in part if setup.adapter is not None]
        if not keys:
            return None, None
        places = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        with torch.no_grad():
            weights = self._condition.adapters(list(places)).detach()
        if weights.num_adapters != len(places):
            raise ConfigError(
                f"condition {self._condition.name!r} gave {weights.num_adapters} adapters for "
                f"{len(places)} keys; give one for each"
            )
        weights.check_finite()
        return weights, [places[key] for key in keys]


def _check(tasks: Sequence[Task], conditions: Sequence[Condition]) -> None:
    for what, names in (
        ("tasks", [task.name for task in tasks]),
        ("conditions", [condition.name for condition in conditions]),
    ):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(
                f"two {what} have the same name, {twice[0]!r}; give every one a name of its own"
            )
    if not conditions:
        raise ConfigError("no condition to score; name at least one")
    programs = [task.name for task in tasks if task.metric.kind == "code_execution"]
    if programs:
        warnings.warn(
            f"{list_some(programs)} ask for programs, which are not run here: these tasks are scored "
            "by likelihood alone; `t2l eval benchmarks` runs programs through lm-eval",
            T2LWarning,
            stacklevel=3,
        )


def _plan(condition: Condition, rows: Sequence[Row]) -> list[Planned]:
    """The rows that a condition takes, and how."""
    setups = condition.plan(rows)
    if len(setups) != len(rows):
        raise ConfigError(
            f"condition {condition.name!r} plans {len(setups)} of {len(rows)} rows; give a Setup, "
            "or None, for each"
        )
    planned = [(row, setup) for row, setup in zip(rows, setups, strict=True) if setup is not None]
    if not planned:
        raise ConfigError(
            f"condition {condition.name!r} takes none of the {len(rows)} rows (it has nothing for "
            "these tasks); leave it out"
        )
    if len({setup.adapter is None for _, setup in planned}) > 1:
        raise ConfigError(
            f"condition {condition.name!r} gives some rows an adapter and others none; make two "
            "conditions of it"
        )
    return planned


def _split(planned: Sequence[Planned]) -> Iterator[list[Planned]]:
    """Parts of a condition, each of so many rows and adapters at most."""
    part: list[Planned] = []
    keys: set[str | None] = set()
    for row, setup in planned:
        is_full = len(keys) == ADAPTERS_PER_PART and setup.adapter not in keys
        if is_full or len(part) == ROWS_PER_PART:
            yield part
            part, keys = [], set()
        part.append((row, setup))
        keys.add(setup.adapter)
    yield part


def _sample(condition: str, row: Row, setup: Setup, answer: Answer) -> Sample:
    return Sample(
        condition=condition,
        task=row.task.name,
        group=group_of(row.task),
        idx=row.example.idx,
        metric=row.task.metric.kind,
        adapter_text=setup.adapter or "",
        prompt_text=setup.description or "",
        input=row.example.input,
        reference=row.example.outputs[0],
        answer=answer.text,
        nll=answer.nll if answer.tokens else None,
        tokens=answer.tokens,
        score=answer.score,
        in_labels=answer.in_labels,
        label_score=answer.label_score,
        outputs=row.example.outputs,
        cut=answer.cut,
    )


def _open_run(
    output_dir: Path, settings: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write run.json, or check that the one in the folder is of the same evaluation and add to it."""
    path = output_dir / "run.json"
    check_results(output_dir, marker=path.name, names=REPORT_FILES)
    known: dict[str, Any] = {}
    if path.exists():
        earlier = read_run(output_dir)
        known = earlier["conditions"]
        if field := _first_difference(earlier["settings"], settings):
            raise ConfigError(
                f"{str(output_dir)!r} holds an evaluation with another {field!r}; "
                "choose another output folder or delete it"
            )
        for name in set(conditions) & set(known):
            before, now = (
                {**record["about"], **record} for record in (known[name], conditions[name])
            )
            if field := _first_difference(before, now):
                raise ConfigError(
                    f"{str(output_dir)!r} holds condition {name!r} made of other things "
                    f"(another {field!r}); choose another output folder"
                )
    run = {"format": FORMAT, "version": VERSION, "settings": dict(settings)}
    write_json(path, {**run, "conditions": {**known, **conditions}})


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first field that differs, as JSON."""
    for name in {**now, **before}:
        if content_hash(before.get(name)) != content_hash(now.get(name)):
            return name
    return None


def _describe(condition: Condition, planned: Sequence[Planned]) -> dict[str, Any]:
    """What run.json says of a condition; the texts of its adapters stand in its samples."""
    shots = {row.task.name: [shot.idx for shot in setup.shots] for row, setup in planned}
    return {
        "kind": condition.name.partition(".")[0],
        "about": dict(condition.about),
        "rows": len(planned),
        "tasks": len(shots),
        "plan": content_hash(
            [[s.adapter, s.description, [shot.idx for shot in s.shots]] for _, s in planned]
        ),
        **({"shots": shots} if any(shots.values()) else {}),
    }


def _describe_rows(rows: Sequence[Row]) -> dict[str, Any]:
    described = {}
    for name, members in groupby(rows, key=lambda row: row.task.name):
        examples = [(row.task, row.example) for row in members]
        task = examples[0][0]
        described[name] = {
            "group": group_of(task),
            "metric": task.metric.kind,
            "labels": list(task.metric.labels),
            "split": task.split,
            "rows": [example.idx for _, example in examples],
            "content": content_hash([[e.input, list(e.outputs)] for _, e in examples]),
        }
    return described
