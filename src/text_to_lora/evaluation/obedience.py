"""Obedience: descriptions of the kind that first users try, as tasks whose metric is a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.rules import RULE_SETS, SENTENCES, Rule
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Metric, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONDITIONS = ("base", "in_prompt", "matched")


def make_rule_tasks(rules: Sequence[Rule]) -> list[Task]:
    """A task for each rule, named by its description, with a row for each of SENTENCES."""
    # A rule names no right answer, and every example has one; the sentence stands in its place.
    examples = tuple(Example(text, (text,), idx) for idx, text in enumerate(SENTENCES))
    return [
        Task(
            rule.description,
            rule.description,
            (),
            examples,
            Metric("rule", rule=rule.name),
            split="test",
        )
        for rule in rules
    ]


def evaluate_obedience(
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generate: Callable[[Sequence[str]], LoraWeights],
    output_dir: Path | str,
    sets: Mapping[str, Sequence[Rule]] = RULE_SETS,
    max_new_tokens: int = 32,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score base, description in the prompt and adapters by rule; give the report of each set.

    generate: one adapter for each description
    output_dir: a folder of `evaluate_suite` for each set of rules, which has means of its own

    Raises ConfigError where `evaluate_suite` does.
    """
    reports = {}
    for name, rules in sets.items():
        tasks = make_rule_tasks(rules)
        reports[name] = evaluate_suite(
            base=base,
            tokenizer=tokenizer,
            tasks=tasks,
            conditions=plan_conditions(CONDITIONS, Sources(tasks=tasks, generate=generate)),
            output_dir=Path(output_dir) / name,
            rows_per_task=None,
            examples=lambda task: task.examples,
            max_new_tokens=max_new_tokens,
            provenance=provenance,
            progress=progress,
        )
    return reports
