"""Benchmarks under conditions -> logged questions -> tables; resumable by task and condition."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import Benchmark, BenchmarkTask, donors
from text_to_lora.evaluation.benchmarks.questions import question_path, write_questions
from text_to_lora.evaluation.benchmarks.results import FORMAT, VERSION, build_results
from text_to_lora.evaluation.benchmarks.rows import read_rows, row_hashes
from text_to_lora.evaluation.conditions import JUNK
from text_to_lora.evaluation.samples import in_order
from text_to_lora.files import check_format, content_hash, read_json, write_json
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.outputs import one_job_a_folder

if TYPE_CHECKING:
    from text_to_lora.evaluation.benchmarks.harness import Engine, RunCode

Kind = Literal["base", "in_prompt", "icl", "multitask", "matched", "shuffled", "junk"]
KINDS: Final[tuple[Kind, ...]] = (
    "base",
    "in_prompt",
    "icl",
    "multitask",
    "matched",
    "shuffled",
    "junk",
)
GENERATED: Final = ("matched", "shuffled", "junk")
DESCRIPTIONS: Final = 3  # that a kind has conditions for; the paper's number for a benchmark
ICL_SHOTS: Final = 3  # of the paper's tables

Generate = Callable[[Sequence[str]], LoraWeights]


@dataclass(frozen=True)
class TaskCondition:
    """One pass over one task.

    name: kind, with ".1" and so on where a kind has several descriptions
    adapter_text: description of the adapter; "" without one; system: text before the question
    """

    name: str
    kind: Kind
    adapter_text: str = ""
    system: str = ""


def plan_task(
    task: BenchmarkTask,
    kinds: Sequence[str],
    *,
    description: str | None = None,
    count: int = DESCRIPTIONS,
) -> list[TaskCondition]:
    """Lay out the conditions of a task, in the order of reports.

    description: in place of the task's own ones; matched is then one condition
    count: of descriptions of matched, shuffled and junk

    Raises ConfigError for an unknown kind, an empty description, or more than there are.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown condition {kind!r}; choose among {', '.join(KINDS)}")
    if description is not None and not description.strip():
        raise ConfigError(f"the description is empty ({description!r}); say what the task is")
    own = task.descriptions if description is None else (description,)
    most = min(len(task.descriptions), len(JUNK), len(donors(task)))
    if not 1 <= count <= most:
        raise ConfigError(f"number of descriptions is {count}; give 1 to {most}")
    texts = {
        "matched": own[:count],
        "shuffled": [donor.descriptions[0] for donor in donors(task)[:count]],
        "junk": JUNK[:count],
    }
    plan: list[TaskCondition] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        if kind == "in_prompt":
            plan.append(TaskCondition(kind, kind, system=own[0]))
        elif kind in texts:
            plan += [
                TaskCondition(f"{kind}.{number}", kind, adapter_text=text)
                for number, text in enumerate(texts[kind], 1)
            ]
        else:
            plan.append(TaskCondition(kind, kind))
    return plan


@one_job_a_folder
def evaluate_benchmarks(
    *,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    output_dir: Path | str,
    generate: Generate | None = None,
    multitask: LoraWeights | None = None,
    conditions: Sequence[str] | None = None,
    description: str | None = None,
    num_descriptions: int = DESCRIPTIONS,
    shots: int | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    rows_dir: Path | None = None,
    run_code: RunCode | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score public benchmarks through lm-eval and write questions and tables; give the results.

    output_dir: `run.json`, `samples/<task>/<condition>.parquet`, and what `build_results` writes.
        A condition of a task whose questions are there already is not scored again.
    generate: one adapter for each description; needed by matched, shuffled and junk
    multitask: one adapter; needed by multitask
    conditions: kinds; None: all that the given adapters allow, but icl
    shots: examples in every prompt; None for each task's own number
    limit: the first rows of each task alone
    max_new_tokens: most tokens of a written answer; None for each task's own number
    rows_dir: local rows in the hub's columns; None for the hub
    run_code: runs the programs of HumanEval and MBPP; without it these two are refused
    provenance: JSON of what is evaluated (names, hashes); it has to be equal on resuming

    Raises ConfigError for conditions without adapters, benchmarks of code without `run_code`, rows
    that cannot be had, or an output folder of another evaluation.
    """
    from text_to_lora.evaluation.benchmarks.harness import LM_EVAL_VERSION, load_task, run_task

    folder = Path(output_dir)
    tell = progress or (lambda line: None)
    kinds = _checked_kinds(conditions, generate, multitask)
    check_code(benchmarks, run_code)
    _check_number("limit", limit, least=1)
    _check_number("max_new_tokens", max_new_tokens, least=1)
    _check_number("number of examples", shots, least=0)
    plans = {
        task: plan_task(task, kinds, description=description, count=num_descriptions)
        for benchmark in benchmarks
        for task in benchmark.tasks
    }
    settings = {
        "backend": engine.name,
        "verified": engine.verified,
        "lm_eval": LM_EVAL_VERSION,
        "prompt_form": engine.prompt_form,
        "shots": shots,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "rows": "hub" if rows_dir is None else "local",
        "provenance": dict(provenance or {}),
    }
    sources = {task.name: row_hashes(rows_dir, task) for task in plans} if rows_dir else {}
    _open_run(folder, settings, plans, sources)
    for task, plan in plans.items():
        missing = [c for c in plan if not question_path(folder, task.name, c.name).exists()]
        if len(missing) < len(plan):
            tell(f"{task.name}: {len(plan) - len(missing)} of {len(plan)} finished before")
        if not missing:
            continue
        rows = None if rows_dir is None else read_rows(rows_dir, task)
        loaded = load_task(task, rows=rows, run_code=run_code)
        for condition in missing:
            started = time.perf_counter()
            weights = _weights(condition, generate, multitask)
            with engine.using(weights) as model:
                result = run_task(
                    model,
                    loaded,
                    prompt_form=engine.prompt_form,
                    system=condition.system or None,
                    shots=ICL_SHOTS if condition.kind == "icl" else shots,
                    limit=limit,
                    max_new_tokens=max_new_tokens,
                )
            seconds = round(time.perf_counter() - started, 1)
            metadata = {
                "seconds": seconds,
                "scores": result.scores,
                "shots": result.shots,
                "task_version": result.version,
                "max_new_tokens": result.max_new_tokens,
            }
            path = question_path(folder, task.name, condition.name)
            write_questions(path, result.questions, metadata)
            tell(f"{task.name}, {condition.name}: {len(result.questions)} rows, {seconds:.0f} s")
    return build_results(folder)


def _checked_kinds(
    conditions: Sequence[str] | None, generate: Generate | None, multitask: LoraWeights | None
) -> list[str]:
    missing = [*(GENERATED if generate is None else ()), *(["multitask"] * (multitask is None))]
    if conditions is None:
        return [kind for kind in KINDS if kind not in (*missing, "icl")]
    for kind in conditions:
        if kind in missing:
            source = "--multitask" if kind == "multitask" else "a hypernetwork"
            raise ConfigError(f"condition {kind!r} needs {source}; give it or leave {kind!r} out")
    return list(conditions)


def check_code(benchmarks: Sequence[Benchmark], run_code: RunCode | None) -> None:
    """Refuse benchmarks of code without something that runs programs.

    Raises ConfigError.
    """
    code = [benchmark.name for benchmark in benchmarks if benchmark.runs_code]
    if code and run_code is None:
        verb = "runs" if len(code) == 1 else "run"
        raise ConfigError(
            f"{' and '.join(code)} {verb} programs that the model wrote; pass "
            "--allow-code-execution to allow it, or leave out with --benchmarks"
        )


def _check_number(name: str, value: int | None, *, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{name} is {value}; give at least {least}, or leave it out")


def _weights(
    condition: TaskCondition, generate: Generate | None, multitask: LoraWeights | None
) -> LoraWeights | None:
    if condition.kind == "multitask":
        return multitask
    if not condition.adapter_text:
        return None
    assert generate is not None
    with torch.no_grad():
        weights = generate([condition.adapter_text]).detach()
    weights.check_finite()
    return weights


def _open_run(
    folder: Path,
    settings: Mapping[str, Any],
    plans: Mapping[BenchmarkTask, Sequence[TaskCondition]],
    sources: Mapping[str, Mapping[str, str]],
) -> None:
    """Write run.json, or check that the folder's own is of the same evaluation and add to it."""
    path = folder / "run.json"
    earlier: dict[str, Any] = {}
    if path.exists():
        run = read_json(path)
        check_format(run, path, name=FORMAT, version=VERSION, error=ConfigError)
        for field, value in settings.items():
            if content_hash(run["settings"].get(field)) != content_hash(value):
                raise ConfigError(
                    f"{str(folder)!r} holds benchmarks with another {field!r}: "
                    f"{run['settings'].get(field)!r}, not {value!r}; choose another output folder"
                )
        earlier = run["tasks"]
    tasks: dict[str, Any] = dict(earlier)
    for task, plan in plans.items():
        known = earlier.get(task.name, {"rows": dict(sources.get(task.name, {})), "conditions": {}})
        if known["rows"] != dict(sources.get(task.name, {})):
            raise ConfigError(
                f"{str(folder)!r} holds {task.name!r} on other rows; choose another output folder"
            )
        texts = {
            c.name: {"kind": c.kind, "adapter_text": c.adapter_text, "system": c.system}
            for c in plan
        }
        for name in texts.keys() & known["conditions"].keys():
            if texts[name] != known["conditions"][name]:
                raise ConfigError(
                    f"{str(folder)!r} holds {task.name!r}, {name!r} of another description; "
                    "choose another output folder"
                )
        merged = {**known["conditions"], **texts}
        tasks[task.name] = {
            "rows": known["rows"],
            "conditions": {name: merged[name] for name in in_order(merged)},
        }
    write_json(
        path, {"format": FORMAT, "version": VERSION, "settings": dict(settings), "tasks": tasks}
    )
