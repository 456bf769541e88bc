"""No harm: what an adapter does to inputs of other tasks, and to plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from pandas import DataFrame, Series  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.evaluation.tables import show, table
from text_to_lora.files import (
    check_results,
    content_hash,
    one_job_a_folder,
    read_finished,
    write_json,
    write_text,
)
from text_to_lora.lora.apply import adapted
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row, Task

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
    _check(adapters, weights, rows)
    folder, report = Path(output_dir), progress or (lambda line: None)
    scorer = Scorer(base, tokenizer, max_new_tokens=0, max_length=max_length)
    plain_text = _PlainText(base, tokenizer, texts)
    check_results(folder, marker="adapters", names=("harm.json", "harm.md", "harm.png"))
    content = [[r.task.name, r.example.idx, r.example.input, r.task.definition] for r in rows]
    setting = content_hash({"rows": content, "texts": list(texts), "max_length": max_length})
    described = _nlls(scorer, rows)
    parts: dict[str, dict[str, Any]] = {}
    for place, (adapter, factors) in enumerate(zip(adapters, weights, strict=True), 1):
        path = folder / "adapters" / f"{place:03}.json"
        identity = {"name": adapter.name, "setting": setting, "adapter": dict(adapter.identity)}
        part, state = read_finished(path, {"identity": identity}), ": finished before"
        if part is None:
            harm = _harm_of_rows(scorer, rows, described, adapter, factors)
            part = {"identity": identity, "harm": harm, "text": plain_text.effect(factors)}
            state = ""
            write_json(path, part)
        report(f"{place}/{len(adapters)} {adapter.name}{state}")
        parts[adapter.name] = part
    tasks = [row.task.name for row in rows]
    nll = DataFrame({"described": described, "alone": _nlls(scorer, rows, described=False)})
    result = _summarise(adapters, parts, rows, nll.groupby(tasks).mean(), seed=seed)
    write_json(folder / "harm.json", result)
    write_text(folder / "harm.md", render_harm(result))
    return result


def render_harm(result: Mapping[str, Any]) -> str:
    """Give a result as Markdown: a line for each adapter, the worst first."""
    overall, gain = result["overall"], result["told"]["gain"]
    has_text = overall["kl"] is not None
    head = ["adapter", "harm, nats a token", "tasks harmed", "worst task"]
    lines = []
    for name, entry in sorted(result["adapters"].items(), key=lambda e: -e[1]["harm"]["mean"]):
        worst = f"{entry['worst_task']['task']} {entry['worst_task']['harm']:+.2f}"
        harmed = f"{entry['tasks_harmed']} of {entry['tasks']}"
        line = [name, show(entry["harm"], sign="+"), harmed, worst]
        if has_text:
            line += [f"{entry['kl']:.3f}", f"{entry['perplexity_ratio']:.3f}"]
        lines.append(line)
    text = f" KL on plain text {show(overall['kl'], sign='+')}." if has_text else ""
    return (
        "# Harm\n\nAnswer NLL of other tasks, their own description in the prompt, with the adapter "
        "minus without it; positive is harm. 95% bootstrap: over source groups of the tasks in a "
        "line, over adapters in the mean.\n\n"
        f"Mean over {len(lines)} adapters: {show(overall['harm'], sign='+')}. The description in the "
        f"prompt itself is worth {show(gain, sign='+')} on these rows.{text}\n\n"
        f"{table([*head, *(['KL on text', 'perplexity ratio'] if has_text else [])], lines)}\n"
    )


def _check(adapters: Sequence[Judged], weights: Sequence[LoraWeights], rows: Sequence[Row]) -> None:
    if len(adapters) != len(weights):
        raise ConfigError(f"{len(adapters)} names for {len(weights)} adapters; give one for each")
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise ConfigError("two adapters have the same name; give every adapter one of its own")
    groups = {group_of(row.task) for row in rows}
    for adapter in adapters:
        if not groups - {adapter.group}:
            raise ConfigError(
                f"adapter {adapter.name!r} has no row of another group than its own "
                f"{adapter.group!r}; add tasks"
            )


def _nlls(
    scorer: Scorer,
    rows: Sequence[Row],
    weights: LoraWeights | None = None,
    *,
    described: bool = True,
) -> list[float]:
    """Answer NLL of each row, nats a token, with the task's definition in the prompt or without."""
    texts = [row.task.definition if described else None for row in rows]
    return [answer.nll for answer in scorer.score(rows, weights=weights, prompt_texts=texts)]


def _harm_of_rows(
    scorer: Scorer,
    rows: Sequence[Row],
    described: Sequence[float],
    adapter: Judged,
    factors: LoraWeights,
) -> list[dict[str, Any]]:
    """Harm to each row of another group than the adapter's; described: NLL without the adapter."""
    others = [i for i, row in enumerate(rows) if group_of(row.task) != adapter.group]
    nlls = _nlls(scorer, [rows[i] for i in others], factors)
    return [
        {"task": rows[i].task.name, "idx": rows[i].example.idx, "nll": nll - described[i]}
        for i, nll in zip(others, nlls, strict=True)
    ]


class _PlainText:
    """The first tokens of plain texts, and what the base predicts for them.

    Raises ConfigError for a text that is too short.
    """

    def __init__(
        self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
    ) -> None:
        self._base = base
        self._windows: list[Tensor] = []  # [1, seq] each
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:WINDOW]
            if len(ids) < SHORTEST:
                raise ConfigError(
                    f"the plain text {text[:40]!r} has {len(ids)} tokens; give {SHORTEST} or more"
                )
            self._windows.append(torch.tensor([ids], device=base.device))
        self._plain = [self._log_probabilities(window) for window in self._windows]

    def effect(self, weights: LoraWeights) -> dict[str, float] | None:
        """KL from the base's predictions, and nats a token of both; None without texts."""
        if not self._windows:
            return None
        sums = torch.zeros(3, dtype=torch.float64)
        for window, plain in zip(self._windows, self._plain, strict=True):
            with adapted(self._base, weights):
                changed = self._log_probabilities(window)
            divergence = (plain.exp() * (plain - changed)).sum()
            losses = [cross_entropy(p.mT, window[:, 1:], reduction="sum") for p in (plain, changed)]
            sums += torch.stack([divergence, *losses]).cpu()
        tokens = sum(window.shape[1] - 1 for window in self._windows)
        return dict(zip(("kl", "nll_base", "nll"), (sums / tokens).tolist(), strict=True))

    @torch.no_grad()
    def _log_probabilities(self, window: Tensor) -> Tensor:
        """Of every next token, [1, seq - 1, vocab]."""
        logits: Tensor = self._base(input_ids=window).logits
        return log_softmax(logits[:, :-1].float(), dim=-1)


def _summarise(
    adapters: Sequence[Judged],
    parts: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Row],
    nll: DataFrame,
    *,
    seed: int,
) -> dict[str, Any]:
    """The result of `run_harm`; nll: of the base alone by task, with the description and without."""
    groups = {row.task.name: group_of(row.task) for row in rows}
    over_tasks = GroupBootstrap(groups, seed=seed)
    entries: dict[str, dict[str, Any]] = {}
    for adapter in adapters:
        part = parts[adapter.name]
        values = Series([row["nll"] for row in part["harm"]])
        harm = values.groupby([row["task"] for row in part["harm"]]).mean()
        text = part["text"] or {}
        entries[adapter.name] = {
            "identity": part["identity"]["adapter"],
            "harm": over_tasks.mean(harm).to_dict(),
            "tasks": len(harm),
            "tasks_harmed": int((harm > 0).sum()),
            "worst_task": {"task": harm.idxmax(), "harm": float(harm.max())},
            "by_task": harm.to_dict(),
            "kl": text.get("kl"),
            "perplexity_ratio": math.exp(text["nll"] - text["nll_base"]) if text else None,
        }
    over_adapters = GroupBootstrap({a.name: a.group or a.name for a in adapters}, seed=seed)

    def overall(value: Callable[[dict[str, Any]], float | None]) -> dict[str, float | None] | None:
        known = {n: v for n, entry in entries.items() if (v := value(entry)) is not None}
        return over_adapters.mean(known).to_dict() if known else None

    return {
        "format": FORMAT,
        "version": VERSION,
        "rows": len(rows),
        "tasks": sorted(groups),
        "adapters": entries,
        "overall": {
            "harm": overall(lambda entry: entry["harm"]["mean"]),
            "tasks_harmed": overall(lambda entry: entry["tasks_harmed"] / entry["tasks"]),
            "worst_task": overall(lambda entry: entry["worst_task"]["harm"]),
            "kl": overall(lambda entry: entry["kl"]),
            "perplexity_ratio": overall(lambda entry: entry["perplexity_ratio"]),
        },
        "worst_adapter": max(entries, key=lambda name: entries[name]["harm"]["mean"]),
        "told": {
            "gain": over_tasks.mean(nll["alone"] - nll["described"]).to_dict(),
            "nll": over_tasks.mean(nll["described"]).to_dict(),
        },
    }
