"""The model card of the embedded default, written from what its run recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from text_to_lora.evaluation.report import CONTROLS
from text_to_lora.evaluation.samples import in_order
from text_to_lora.files import read_json
from text_to_lora.tasks.task import Task

_HEAD = """\
---
license: apache-2.0
language: en
library_name: text-to-lora
---
# text-to-lora-embedded

A small base model and a hypernetwork that writes LoRA adapters for it from a task description.
They exist so that text-to-lora runs anywhere in seconds, without a GPU and without a model hub.
The base is tiny: use it to try the method and to test software, not for its answers.
"""

_SOURCES = """\
Text: public-domain books, ELTeC-eng novels (CC BY 4.0), OpenStax textbooks (CC BY), WikiText-2
(CC BY-SA 3.0), the Rust book (MIT/Apache-2.0), African Storybook (CC BY). Tasks:
Super-NaturalInstructions (Apache-2.0), descriptions of Text-to-LoRA (Apache-2.0),
instruction-induction (Apache-2.0), function_vectors (MIT), LegalBench and CUAD (CC BY 4.0), CLINC150
(CC BY 3.0), SNIPS (CC0), RESTAURANTS-8K (CC BY 4.0), ATOMIC-2020 (CC BY 4.0), self-instruct
(Apache-2.0), research sets without a stated licence (TREC, SUBJ, MR, SST-5, CR, MPQA, TweetEval),
LLM-Adapters' arithmetic sets, AQuA, and others; `NOTICE` names them. The base starts from the
layers of all-MiniLM-L6-v2 (Apache-2.0), which is its text encoder too.
"""


def licence_table(tasks: Sequence[Task]) -> dict[str, int]:
    """Number of tasks for each recorded licence, most frequent first."""
    return dict(Counter(task.license or "not recorded" for task in tasks).most_common())


def render_card(run: Path) -> str:
    """The card as Markdown, from the folder of a finished run.

    Raises ConfigError when a stage's record is missing.
    """
    base = read_json(run / "base" / "training.json")
    gate = read_json(run / "gate" / "report.json")
    facts = read_json(run / "facts.json")
    rates = read_json(run / "rates.json")
    hypernet = read_json(run / "embedded" / "result.json")
    multitask = read_json(run / "embedded-multitask" / "result.json")
    data = read_json(run / "embedded" / "config.json")["data"]
    heldout = read_json(run / "heldout" / "report.json")
    obedience = read_json(run / "obedience" / "obedience.json")
    plan = base["plan"]
    rows = [
        ("base", f"{base['parameters']:,} parameters, BERT layers made causal, context 512"),
        ("base training", f"{base['steps']:,} steps, {base['tokens']:,} tokens, "
         f"{base['seconds'] / 60:.0f} minutes"),
        ("of which text", f"{plan['text_steps']:,} steps; the rest are instruction rows, "
         f"{plan['description_share']:.0%} with the description in the prompt"),
        ("tasks", f"{base['num_tasks']} described, {base['num_family_tasks']:,} of the families "
         "whose input does not tell the task"),
        ("bits per character", f"{base['bits_per_character']:.3f} on the validation text"),
        ("hypernetwork", f"{facts['hypernet_parameters']:,} parameters, " + _run_of(hypernet)),
        ("swapped rows", f"{data['swapped_examples']} of {data['examples_per_task']} rows of each "
         f"task after step {data['swapped_after']:,}: description and answer of another task over "
         "the same input, learned from the base with that description in its prompt"),
        ("multi-task adapter", f"{facts['adapter_parameters']:,} parameters, the same rows (none "
         "swapped) and steps, " + _run_of(multitask)),
        ("learning rates", "chosen on validation tasks: "
         + ", ".join(f"{name} {rate:g}" for name, rate in rates["best"].items())
         + f", of {len(rates['losses'])} trials of {rates['steps']} steps"),
        ("machine", facts["machine"]),
        ("date", facts["date"]),
        ("command", f"`{facts['command']}`"),
    ]  # fmt: skip
    gated = gate["differences"]["in_prompt - base"]["nll"]
    sections = [
        _HEAD,
        "## Training\n\n" + _table(("what", "value"), rows),
        "## Gate\n\nAnswer NLL per token on "
        f"{gated['tasks']} tasks set aside from training: description in the prompt minus none "
        f"{_interval(gated)}.",
        "## Unseen tasks\n\n" + condition_table(heldout),
        "## Differences\n\n" + difference_table(heldout),
        "## Obedience\n\nShare of answers that obey 20 descriptions, by rule: "
        + ", ".join(f"{name} {share:.1%}" for name, share in obedience["mean"].items())
        + ".",
        "## Data\n\n" + _SOURCES + "\nRecorded licences of the training tasks:\n\n"
        + _table(("licence", "tasks"), list(facts["licences"].items())),
    ]  # fmt: skip
    return "\n\n".join(section.strip() for section in sections) + "\n"


def condition_table(report: Mapping[str, Any]) -> str:
    """Means of every condition with 95% intervals, as Markdown."""
    conditions = report["conditions"]
    rows = [
        (name, *(_interval(conditions[name].get(m)) for m in ("nll", "score", "in_labels")))
        for name in in_order(conditions)
    ]
    return _table(("condition", "answer NLL per token", "score", "answers inside label set"), rows)


def difference_table(report: Mapping[str, Any]) -> str:
    """Paired differences with 95% intervals over source groups, as Markdown."""
    differences = report["differences"]
    first = [f"matched - {control}" for control in CONTROLS]
    others = [name for name in differences if name not in first]
    rows = [
        (name, _interval(differences[name].get("nll")), _interval(differences[name].get("score")))
        for name in (*first, *others)
        if name in differences and not name.startswith("paraphrase")
    ]
    return _table(("paired difference", "answer NLL per token", "score"), rows)


def _run_of(result: Mapping[str, Any]) -> str:
    return (
        f"{result['step']:,} steps, {result['tokens']:,.0f} tokens, "
        f"{result['seconds'] / 60:.0f} minutes, best at step {result['best_step']:,}"
    )


def _interval(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["mean"] is None:
        return "–"
    if entry["low"] is None:
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
