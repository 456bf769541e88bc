"""No harm: what an adapter does to inputs of other tasks, and to plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.adapters import as_json
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.scoring import Row, Scorer, choose_rows
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.files import (
    check_results,
    content_hash,
    one_job_a_folder,
    read_json,
    write_json,
    write_text,
)
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT, VERSION = "text-to-lora harm", 1
WINDOW = 96  # tokens read of each plain text
SHORTEST = 8  # tokens; a shorter text says little


@dataclass(frozen=True)
class Judged:
    """An adapter whose effect on other tasks is measured.

    group: source group of its own task, whose rows are left out; "" where it is of no group
    identity: JSON that tells it from others (its description and hypernetwork, or hashes)
    """

    name: str
    identity: Mapping[str, Any]
    group: str = ""


def choose_other_rows(
    tasks: Sequence[Task],
    *,
    num_tasks: int,
    rows_per_task: int,
    seed: int,
    examples: Callable[[Task], Sequence[Example]],
) -> list[Row]:
    """Draw rows of up to `num_tasks` tasks, each of another source group.

    examples: the rows that may be drawn; tasks without any are passed over

    Raises ConfigError when there are fewer than two groups.
    """
    rng = Random(f"harm/{seed}")
    by_group: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.name):
        if examples(task):
            by_group.setdefault(group_of(task), []).append(task)
    if len(by_group) < 2 or num_tasks < 2:
        raise ConfigError(
            f"{min(len(by_group), num_tasks)} tasks of unlike source groups; "
            "harm to other tasks needs two or more"
        )
    groups = rng.sample(sorted(by_group), min(num_tasks, len(by_group)))
    chosen = [rng.choice(by_group[group]) for group in sorted(groups)]
    return choose_rows(chosen, rows_per_task=rows_per_task, seed=seed, examples=examples)


@one_job_a_folder
def run_harm(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Sequence[Judged],
    weights: Sequence[LoraWeights],
    rows: Sequence[Row],
    output_dir: Path | str,
    texts: Sequence[str] = (),
    max_length: int = 512,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure each adapter on rows of other tasks and on plain text; give the result.

    A row's prompt holds the definition of its own task: the question is whether the adapter breaks a
    model that is told something else. The answer NLL of a row with the adapter minus that without is
    its harm, in nats a token.

    weights: one adapter for each of `adapters`; their ranks may differ
    rows: of several tasks; those of an adapter's own group are left out for it
    texts: plain text, of which the first tokens are read; KL of the base's predictions from those
        with the adapter, and perplexity
    output_dir: receives `adapters/` with a file for each adapter, which is not measured again,
        `harm.json` and `harm.md`

    Raises ConfigError when names repeat, when an adapter has no row of another group, when a text is
    too short, or when `output_dir` holds the harm of other adapters or rows.
    """
    say = progress or (lambda line: None)
    _check(adapters, weights, rows)
    groups = {row.task.name: group_of(row.task) for row in rows}
    scorer = Scorer(base, tokenizer, max_new_tokens=0, max_length=max_length)
    told: list[str | None] = [row.task.definition for row in rows]
    windows = [_window(tokenizer, text) for text in texts]
    folder = Path(output_dir)
    check_results(folder, marker="adapters", names=("harm.json", "harm.md", "harm.png"))
    setting = content_hash(
        {
            "rows": [[r.task.name, r.example.idx, r.example.input, told[i]] for i, r in enumerate(rows)],
            "texts": list(texts),
            "max_length": max_length,
        }
    )  # fmt: skip
    without = _nlls(scorer, rows, told, None)
    untold = _nlls(scorer, rows, [None] * len(rows), None)
    plain = [_log_probabilities(base, window) for window in windows]
    parts: dict[str, dict[str, Any]] = {}
    for place, (adapter, own) in enumerate(zip(adapters, weights, strict=True), 1):
        path = folder / "adapters" / f"{place:03}.json"
        identity = {"name": adapter.name, "setting": setting, "adapter": dict(adapter.identity)}
        if path.exists():
            part = read_json(path)
            if part.get("identity") != identity:
                raise ConfigError(
                    f"{str(path)!r} is of another adapter or of other rows; delete the folder "
                    f"{str(folder)!r} or choose another"
                )
            say(f"{place}/{len(adapters)} {adapter.name}: finished before")
        else:
            others = [i for i, row in enumerate(rows) if groups[row.task.name] != adapter.group]
            with_it = _nlls(scorer, [rows[i] for i in others], [told[i] for i in others], own)
            part = {
                "identity": identity,
                "harm": [
                    {"task": rows[i].task.name, "idx": rows[i].example.idx, "nll": nll - without[i]}
                    for i, nll in zip(others, with_it, strict=True)
                ],
                "text": _text_effect(base, windows, plain, own),
            }
            write_json(path, part)
            say(f"{place}/{len(adapters)} {adapter.name}")
        parts[adapter.name] = part
    result = _summarise(adapters, parts, groups, rows, without, untold, seed=seed)
    write_json(folder / "harm.json", result)
    write_text(folder / "harm.md", render_harm(result))
    return result


def render_harm(result: Mapping[str, Any]) -> str:
    """Give a result as Markdown: a line for each adapter, the worst first."""
    overall, told = result["overall"], result["told"]
    has_text = overall["kl"] is not None
    names = ["adapter", "harm, nats a token", "tasks harmed", "worst task"]
    names += ["KL on text", "perplexity ratio"] if has_text else []
    lines = [names, ["---"] * len(names)]
    for name, entry in sorted(
        result["adapters"].items(), key=lambda item: -float(item[1]["harm"]["mean"])
    ):
        worst = entry["worst_task"]
        line = [
            name,
            _interval(entry["harm"]),
            f"{entry['tasks_harmed']} of {entry['tasks']}",
            f"{worst['task']} {worst['harm']:+.2f}",
        ]
        if has_text:
            line += [f"{entry['kl']:.3f}", f"{entry['perplexity_ratio']:.3f}"]
        lines.append(line)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f" KL on plain text {_interval(overall['kl'])}." if has_text else ""
    return (
        "# Harm\n\nAnswer NLL of other tasks, their own description in the prompt, with the adapter "
        "minus without it; positive is harm. 95% bootstrap: over source groups of the tasks in a "
        "line, over adapters in the mean.\n\n"
        f"Mean over {len(result['adapters'])} adapters: {_interval(overall['harm'])}. The "
        f"description in the prompt itself is worth {_interval(told['gain'])} on these rows.{text}\n\n"
        f"{table}\n"
    )


def _check(adapters: Sequence[Judged], weights: Sequence[LoraWeights], rows: Sequence[Row]) -> None:
    if len(adapters) != len(weights):
        raise ConfigError(f"{len(adapters)} names for {len(weights)} adapters; give one for each")
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise ConfigError("two adapters have the same name; give every adapter one of its own")
    found = {group_of(row.task) for row in rows}
    for adapter in adapters:
        if not found - {adapter.group}:
            raise ConfigError(
                f"adapter {adapter.name!r} has no row of another group than its own "
                f"{adapter.group!r}; add tasks"
            )


def _nlls(
    scorer: Scorer,
    rows: Sequence[Row],
    told: Sequence[str | None],
    weights: LoraWeights | None,
) -> list[float]:
    return [answer.nll for answer in scorer.score(rows, weights=weights, prompt_texts=told)]


def _window(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:WINDOW]
    if len(ids) < SHORTEST:
        raise ConfigError(
            f"the plain text {text[:40]!r} has {len(ids)} tokens; give {SHORTEST} or more"
        )
    return torch.tensor([ids])


@torch.no_grad()
def _log_probabilities(base: PreTrainedModel, window: Tensor) -> Tensor:
    """Of every next token, [1, seq - 1, vocab]."""
    logits: Tensor = base(input_ids=window.to(base.device)).logits
    return log_softmax(logits[:, :-1].float(), dim=-1)


def _text_effect(
    base: PreTrainedModel, windows: Sequence[Tensor], plain: Sequence[Tensor], weights: LoraWeights
) -> dict[str, float] | None:
    """KL and nats a token over all windows; None without any."""
    if not windows:
        return None
    divergence = before = after = 0.0
    tokens = 0
    for window, reference in zip(windows, plain, strict=True):
        with adapted(base, weights):
            changed = _log_probabilities(base, window)
        targets = window[:, 1:].to(changed.device)
        divergence += float((reference.exp() * (reference - changed)).sum())
        before += float(cross_entropy(reference.mT, targets, reduction="sum"))
        after += float(cross_entropy(changed.mT, targets, reduction="sum"))
        tokens += targets.numel()
    return {"kl": divergence / tokens, "nll_base": before / tokens, "nll": after / tokens}


def _summarise(
    adapters: Sequence[Judged],
    parts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, str],
    rows: Sequence[Row],
    without: Sequence[float],
    untold: Sequence[float],
    *,
    seed: int,
) -> dict[str, Any]:
    over_tasks = GroupBootstrap(groups, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for adapter in adapters:
        part = parts[adapter.name]
        harm = _task_means((row["task"], row["nll"]) for row in part["harm"])
        worst = max(harm, key=harm.__getitem__)
        text = part["text"]
        found[adapter.name] = {
            "identity": part["identity"]["adapter"],
            "harm": as_json(over_tasks.mean(harm)),
            "tasks": len(harm),
            "tasks_harmed": sum(value > 0 for value in harm.values()),
            "worst_task": {"task": worst, "harm": harm[worst]},
            "by_task": harm,
            "kl": None if text is None else text["kl"],
            "perplexity_ratio": None if text is None else math.exp(text["nll"] - text["nll_base"]),
        }
    over_adapters = GroupBootstrap({a.name: a.group or a.name for a in adapters}, seed=seed)

    def overall(values: dict[str, float | None]) -> dict[str, float | None] | None:
        known = {name: value for name, value in values.items() if value is not None}
        return as_json(over_adapters.mean(known)) if known else None

    worst_adapter = max(found, key=lambda name: found[name]["harm"]["mean"])
    gain = _task_means(
        (row.task.name, before - after)
        for row, before, after in zip(rows, untold, without, strict=True)
    )
    return {
        "format": FORMAT,
        "version": VERSION,
        "rows": len(rows),
        "tasks": sorted(groups),
        "adapters": found,
        "overall": {
            "harm": overall({name: e["harm"]["mean"] for name, e in found.items()}),
            "tasks_harmed": overall(
                {name: e["tasks_harmed"] / e["tasks"] for name, e in found.items()}
            ),
            "worst_task": overall({name: e["worst_task"]["harm"] for name, e in found.items()}),
            "kl": overall({name: e["kl"] for name, e in found.items()}),
            "perplexity_ratio": overall({n: e["perplexity_ratio"] for n, e in found.items()}),
        },
        "worst_adapter": worst_adapter,
        "told": {
            "gain": as_json(over_tasks.mean(gain)),
            "nll": as_json(
                over_tasks.mean(
                    _task_means((r.task.name, nll) for r, nll in zip(rows, without, strict=True))
                )
            ),
        },
    }


def _task_means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean of the values of each task, by name."""
    values: dict[str, list[float]] = {}
    for task, value in pairs:
        values.setdefault(task, []).append(value)
    return {task: math.fsum(several) / len(several) for task, several in sorted(values.items())}


def _interval(interval: Mapping[str, Any]) -> str:
    ends = "" if interval["low"] is None else f" [{interval['low']:+.3f}, {interval['high']:+.3f}]"
    return f"{interval['mean']:+.3f}{ends}"
