"""The suite: tasks and conditions -> samples of every row -> report; what is done is kept."""

from __future__ import annotations

import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
from text_to_lora.evaluation.scoring import Answer, Row, Scorer, choose_rows, held_out
from text_to_lora.files import check_results, content_hash, one_job_a_folder, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What is scored at once, and lost when a run stops; a part's adapters are in memory together.
ROWS_PER_PART = 256
ADAPTERS_PER_PART = 64


Planned = tuple[Row, Setup]


class RowScorer(Protocol):
    """What scores rows with one model: `Scorer`, or `lm_eval.LmEvalScorer`."""

    def score(
        self,
        rows: Sequence[Row],
        *,
        weights: LoraWeights | None,
        adapters: Sequence[int] | None,
        prompt_texts: Sequence[str | None],
        shots: Sequence[Sequence[Example]],
    ) -> list[Answer]:
        """Score every row; the order of the answers is that of the rows."""
        ...

    def check_room(self, rows: Sequence[Row], prompt_texts: Sequence[str | None]) -> None:
        """Raise ConfigError before anything is scored when a prompt cannot fit."""
        ...


MakeScorer = Callable[["PreTrainedModel"], RowScorer]


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
    max_new_tokens: int = 32,
    max_length: int = 512,
    label_likelihood: bool = True,
    make_scorer: MakeScorer | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score tasks under conditions and write samples, tables and plots; give the report.

    conditions: the conditions; those of `plan_conditions`, or others behind the same protocol
    output_dir: `run.json` (settings, rows, what each condition is made of),
        `samples/<condition>.parquet`, and what `build_report` writes. A condition whose samples are
        there already is not scored again, nor are parts of one that stopped in the middle.
    examples: the rows that may be drawn; by default those that nothing is trained on
    label_likelihood: find the likeliest label of classification rows too
    make_scorer: gives what scores rows with a model; None for `Scorer` with the options above
    provenance: JSON of what is evaluated (names, hashes); it has to be equal on resuming
    progress: called with a line about each condition and each part

    Tasks of programs are scored by likelihood alone, and a T2LWarning names them.

    Raises ConfigError for equal names of tasks or conditions, a condition that takes no row, prompts
    that do not fit into `max_length` without their inputs, or an output folder of another
    evaluation; TaskDataError for a task without rows.
    """
    output_dir = Path(output_dir)
    report_progress = progress or (lambda line: None)
    _check(tasks, conditions)
    rows = choose_rows(tasks, rows_per_task=rows_per_task, seed=seed, examples=examples)
    scorer_options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "label_likelihood": label_likelihood,
    }
    if make_scorer is None:

        def make_scorer(model: PreTrainedModel) -> RowScorer:
            return Scorer(model, tokenizer, **scorer_options)

    scorer = make_scorer(base)
    settings = {
        "base": base_identity(base),
        "seed": seed,
        "rows_per_task": rows_per_task,
        **scorer_options,
        "provenance": dict(provenance or {}),
        "tasks": _describe_rows(rows),
    }
    plans = {condition.name: _planned(condition, rows) for condition in conditions}
    for planned in plans.values():
        scorer.check_room([row for row, _ in planned], [setup.description for _, setup in planned])
    _open_run(output_dir, settings, {b.name: _describe(b, plans[b.name]) for b in conditions})
    report_progress(f"{len(rows)} rows of {len(tasks)} tasks, seed {seed}")
    for place, condition in enumerate(conditions, start=1):
        title = f"{place}/{len(conditions)} {condition.name}"
        run = _ConditionRun(output_dir, condition, plans[condition.name])
        if run.path.exists():
            run.check_finished()
            report_progress(f"{title}: finished before")
            continue
        with condition.on(base) as model:
            own = scorer if model is base else make_scorer(model)
            for done, seconds in run.score(own):
                pace = done / max(seconds, 1e-9)
                left = (run.num_rows - done) / pace
                report_progress(
                    f"{title}: {done}/{run.num_rows} rows, {pace:.1f} rows/s, {left:.0f} s left"
                )
        run.join()
    return build_report(output_dir)


class _ConditionRun:
    """One condition on its way to its file of samples, part by part.

    planned: the rows that are scored, and how
    """

    def __init__(self, folder: Path, condition: Condition, planned: Sequence[Planned]) -> None:
        self.path = sample_path(folder, condition.name)
        self.num_rows = len(planned)
        self._parts_folder = folder / "parts" / condition.name
        self._condition = condition
        self._parts = list(_split(planned))

    def check_finished(self) -> None:
        """Raise ConfigError when the samples there were scored with other adapters.

        The adapters of the first part are made again; a library's are told apart in run.json.
        """
        _, metadata = read_samples(self.path)
        check_signature(self.path, metadata["signature"], signature_of(self._adapters(0)[0]))

    def score(self, scorer: RowScorer) -> Iterator[tuple[int, float]]:
        """Score part after part; gives the rows done so far and the seconds that these took."""
        done, seconds = 0, 0.0
        for place, part in enumerate(self._parts):
            path = self._part_path(place)
            started = time.perf_counter()
            weights, adapters = self._adapters(place)
            signature = signature_of(weights)
            if path.exists():
                _, metadata = read_samples(path)
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
            took = time.perf_counter() - started
            samples = [
                _sample(self._condition.name, row, setup, answer)
                for (row, setup), answer in zip(part, answers, strict=True)
            ]
            left_out = sum(
                len(setup.shots) - answer.shots
                for (_, setup), answer in zip(part, answers, strict=True)
            )
            metadata = {"seconds": took, "signature": signature, "shots_left_out": left_out}
            write_samples(path, samples, metadata)
            done, seconds = done + len(part), seconds + took
            yield done, seconds

    def join(self) -> None:
        """Write the samples of all parts as one file, and take the parts away."""
        read = [read_samples(self._part_path(place)) for place in range(len(self._parts))]
        metadata = {
            "seconds": round(sum(part["seconds"] for _, part in read), 1),
            "signature": read[0][1]["signature"],
            "shots_left_out": sum(part["shots_left_out"] for _, part in read),
        }
        write_samples(self.path, [sample for samples, _ in read for sample in samples], metadata)
        shutil.rmtree(self._parts_folder)
        with suppress(OSError):  # parts of another condition are still there
            self._parts_folder.parent.rmdir()

    def _adapters(self, place: int) -> tuple[LoraWeights | None, list[int] | None]:
        """The adapters of a part, and which of them each row takes."""
        keys = [setup.adapter for _, setup in self._parts[place]]
        if keys[0] is None:
            return None, None
        places = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        with torch.no_grad():
            weights = self._condition.adapters([key for key in places if key is not None]).detach()
        if weights.num_adapters != len(places):
            raise ConfigError(
                f"condition {self._condition.name!r} gave {weights.num_adapters} adapters for "
                f"{len(places)} keys; give one for each"
            )
        weights.check_finite()
        return weights, [places[key] for key in keys]

    def _part_path(self, place: int) -> Path:
        return self._parts_folder / f"{place:05}.parquet"


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


def _planned(condition: Condition, rows: Sequence[Row]) -> list[Planned]:
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
        full = len(keys) == ADAPTERS_PER_PART and setup.adapter not in keys
        if full or len(part) == ROWS_PER_PART:
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
    """Write run.json, or check that the folder's own is of the same evaluation and add to it."""
    path = output_dir / "run.json"
    check_results(output_dir, marker=path.name, names=REPORT_FILES)
    known: dict[str, Any] = {}
    if path.exists():
        earlier = read_run(output_dir)
        for field, value in settings.items():
            if content_hash(earlier["settings"].get(field)) != content_hash(value):
                raise ConfigError(
                    f"{str(output_dir)!r} holds an evaluation with another {field!r}; "
                    "choose another output folder or delete it"
                )
        known = earlier["conditions"]
        for name in set(conditions) & set(known):
            if content_hash(known[name]) != content_hash(conditions[name]):
                raise ConfigError(
                    f"{str(output_dir)!r} holds condition {name!r} made of other things "
                    f"({_difference(known[name], conditions[name])}); choose another output folder"
                )
    write_json(
        path,
        {
            "format": FORMAT,
            "version": VERSION,
            "settings": dict(settings),
            "conditions": {**known, **conditions},
        },
    )


def _difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first field in which two conditions differ."""
    before, after = ({**of["about"], **of} for of in (earlier, now))
    names = [name for name in {**before, **after} if name != "about"]
    name = next(name for name in names if before.get(name) != after.get(name))
    return f"another {name!r}"


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
    for _, members in groupby(rows, key=lambda row: row.task.name):
        chosen = list(members)
        task = chosen[0].task
        described[task.name] = {
            "group": group_of(task),
            "metric": task.metric.kind,
            "labels": list(task.metric.labels),
            "split": task.split,
            "rows": [row.example.idx for row in chosen],
            "content": content_hash([[r.example.input, list(r.example.outputs)] for r in chosen]),
        }
    return described
