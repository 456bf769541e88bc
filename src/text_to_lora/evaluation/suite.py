"""The suite of held-out tasks with controls: rows and conditions -> samples -> report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import (
    KINDS,
    Condition,
    group_of,
    plan_conditions,
)
from text_to_lora.evaluation.report import build_report
from text_to_lora.evaluation.samples import (
    FORMAT,
    VERSION,
    Sample,
    read_samples,
    sample_path,
    write_samples,
)
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.files import check_format, content_hash, read_json, write_json
from text_to_lora.lora.spec import config_hash
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Generate = Callable[[Sequence[str]], LoraWeights]

SAME_WEIGHTS = 1e-4  # relative; threads and BLAS differ by 1e-6, one step of training by more


def evaluate_heldout(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    output_dir: Path | str,
    generate: Generate | None = None,
    multitask: LoraWeights | None = None,
    rows_per_task: int | None = 40,
    seed: int = 0,
    conditions: Sequence[str] | None = None,
    examples: Callable[[Task], Sequence[Example]] = Task.scored,
    max_new_tokens: int = 32,
    max_length: int = 512,
    label_likelihood: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score tasks under conditions and write samples, tables and plots; give the report.

    output_dir: `run.json` (settings, rows, descriptions), `samples/<condition>.parquet`, and what
        `build_report` writes. A condition whose samples are there already is not scored again.
    generate: one adapter for each description; needed by matched, paraphrase, shuffled and junk
    multitask: one adapter; needed by multitask
    conditions: kinds of `conditions.KINDS`; None: all that the given adapters allow
    examples: the rows that may be drawn, `Task.validation` for tasks of training
    provenance: JSON of what is evaluated (names, hashes); it has to be equal on resuming
    progress: called with a line about each condition

    Raises ConfigError for an unknown condition, one without its adapters, equal task names, or an
    output folder of another evaluation; TaskDataError for a task without rows.
    """
    output_dir = Path(output_dir)
    report_progress = progress or (lambda line: None)
    kinds = _checked_kinds(conditions, generate, multitask)
    if len({task.name for task in tasks}) < len(tasks):
        raise ConfigError("two tasks have the same name; give every task a name of its own")
    rows = choose_rows(tasks, rows_per_task=rows_per_task, seed=seed, examples=examples)
    plan = plan_conditions(kinds, tasks, seed=seed)
    scorer = Scorer(
        base,
        tokenizer,
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        label_likelihood=label_likelihood,
    )
    settings = {
        "base": _base_identity(base),
        "seed": seed,
        "rows_per_task": rows_per_task,
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "label_likelihood": label_likelihood,
        "provenance": dict(provenance or {}),
        "tasks": _describe_rows(rows),
    }
    _open_run(output_dir, settings, plan)
    report_progress(f"{len(rows)} rows of {len(tasks)} tasks, seed {seed}")
    for place, condition in enumerate(plan, start=1):
        chosen = [row for row in rows if condition.takes(row.task)]
        weights, adapters, texts = _adapters(condition, chosen, generate, multitask)
        path = sample_path(output_dir, condition.name)
        signature = _signature(weights)
        if path.exists():
            _check_finished(path, signature)
            report_progress(f"{place}/{len(plan)} {condition.name}: finished before")
            continue
        started = time.perf_counter()
        samples = _score(scorer, condition, chosen, weights, adapters, texts)
        seconds = time.perf_counter() - started
        write_samples(path, samples, {"seconds": round(seconds, 1), "signature": signature})
        report_progress(f"{place}/{len(plan)} {condition.name}: {seconds:.0f} s")
    return build_report(output_dir)


def _checked_kinds(
    conditions: Sequence[str] | None, generate: Generate | None, multitask: LoraWeights | None
) -> list[str]:
    generated = ("matched", "paraphrase", "shuffled", "junk")
    missing = [*(generated if generate is None else ()), *(["multitask"] * (multitask is None))]
    if conditions is None:
        return [kind for kind in KINDS if kind not in missing]
    for kind in conditions:
        if kind in missing:
            source = "multitask" if kind == "multitask" else "generate"
            raise ConfigError(f"condition {kind!r} needs {source}=; give it or leave {kind!r} out")
    return list(conditions)


def _adapters(
    condition: Condition,
    rows: Sequence[Row],
    generate: Generate | None,
    multitask: LoraWeights | None,
) -> tuple[LoraWeights | None, list[int], list[str]]:
    """The adapters of a condition, the adapter of each row, and the text that made it."""
    if condition.kind == "multitask":
        return multitask, [0] * len(rows), [""] * len(rows)
    if not condition.adapter_texts:
        return None, [], [""] * len(rows)
    texts = []
    for name, members in groupby(rows, key=lambda row: row.task.name):
        turns = condition.adapter_texts[name]
        texts += [turns[place % len(turns)] for place, _ in enumerate(members)]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    assert generate is not None
    with torch.no_grad():
        weights = generate(list(places)).detach()
    weights.check_finite()
    return weights, [places[text] for text in texts], texts


def _score(
    scorer: Scorer,
    condition: Condition,
    rows: Sequence[Row],
    weights: LoraWeights | None,
    adapters: Sequence[int],
    texts: Sequence[str],
) -> list[Sample]:
    prompts = [condition.prompt_texts.get(row.task.name) for row in rows]
    answers = scorer.score(rows, weights=weights, adapters=adapters, prompt_texts=prompts)
    return [
        Sample(
            condition=condition.name,
            task=row.task.name,
            group=group_of(row.task),
            idx=row.example.idx,
            metric=row.task.metric.kind,
            adapter_text=text,
            prompt_text=prompt or "",
            input=row.example.input,
            reference=row.example.outputs[0],
            answer=answer.text,
            nll=answer.nll,
            tokens=answer.tokens,
            score=answer.score,
            in_labels=answer.in_labels,
            label_score=answer.label_score,
        )
        for row, answer, text, prompt in zip(rows, answers, texts, prompts, strict=True)
    ]


def _open_run(output_dir: Path, settings: dict[str, Any], plan: Sequence[Condition]) -> None:
    """Write run.json, or check that the folder's own is of the same evaluation and add to it."""
    path = output_dir / "run.json"
    texts = {
        condition.name: {
            "kind": condition.kind,
            "adapter_texts": {task: list(t) for task, t in condition.adapter_texts.items()},
            "prompt_texts": dict(condition.prompt_texts),
        }
        for condition in plan
    }
    if path.exists():
        earlier = read_json(path)
        check_format(earlier, path, name=FORMAT, version=VERSION, error=ConfigError)
        for field, value in settings.items():
            if content_hash(earlier["settings"].get(field)) != content_hash(value):
                raise ConfigError(
                    f"{str(output_dir)!r} holds an evaluation with another {field!r}; "
                    "choose another output folder or delete it"
                )
        texts = {**earlier["conditions"], **texts}
    write_json(
        path, {"format": FORMAT, "version": VERSION, "settings": settings, "conditions": texts}
    )


def _describe_rows(rows: Sequence[Row]) -> dict[str, Any]:
    described = {}
    for _, members in groupby(rows, key=lambda row: row.task.name):
        chosen = list(members)
        task = chosen[0].task
        described[task.name] = {
            "group": group_of(task),
            "metric": task.metric.kind,
            "labels": list(task.metric.labels),
            "rows": [row.example.idx for row in chosen],
            "content": content_hash([[r.example.input, list(r.example.outputs)] for r in chosen]),
        }
    return described


def _base_identity(base: PreTrainedModel) -> dict[str, Any]:
    """What tells one base from another without hashing all of it: config, norm scales, dtype."""
    scales = {
        name: round(float(parameter.detach().double().norm()), 4)
        for name, parameter in base.named_parameters()
        if parameter.ndim == 1
    }
    dtype = str(base.dtype).removeprefix("torch.")
    return {
        "config": config_hash(base.config),
        "vectors": content_hash(scales),
        **({} if dtype == "float32" else {"dtype": dtype}),
    }


def _signature(weights: LoraWeights | None) -> list[float]:
    """A few numbers that differ between different adapters: a norm and a projection per tensor."""
    if weights is None:
        return []
    numbers = []
    for tensor in (*weights.a.values(), *weights.b.values()):
        flat = tensor.detach().double().flatten()
        ramp = torch.arange(len(flat), dtype=torch.float64, device=flat.device).cos()
        numbers += [float(flat.norm()), float(flat @ ramp)]
    return numbers


def _check_finished(path: Path, signature: Sequence[float]) -> None:
    _, metadata = read_samples(path)
    earlier = metadata["signature"]
    size = max((abs(number) for number in earlier), default=0.0)
    if len(earlier) != len(signature) or any(
        abs(old - new) > SAME_WEIGHTS * size for old, new in zip(earlier, signature, strict=True)
    ):
        raise ConfigError(
            f"{str(path)!r} was scored with other adapters; delete it or choose another folder"
        )
