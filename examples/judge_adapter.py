"""An adapter is judged against its controls: python examples/judge_adapter.py [--output FOLDER].

An adapter that reads its description beats the adapter of another task's description ("shuffled") and
the one of a meaningless text ("junk"). Beating the base alone would prove much less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from text_to_lora import TextToLora, load_base
from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.tasks.task import Example, Metric, Task

CONDITIONS = ("base", "in_prompt", "matched", "shuffled", "junk")
TEXTS = [
    f"the {thing} is {state}"
    for thing in ("soup", "train", "garden", "letter", "violin")
    for state in ("cold", "late", "green", "lost")
]
RULES: dict[str, Callable[[str], str]] = {
    "Write the text in capitals.": str.upper,
    "Reply with the last word of the text.": lambda text: text.split()[-1],
    "Reply with the second word of the text.": lambda text: text.split()[1],
    "Answer every text with the word banana.": lambda text: "banana",
}


def make_tasks() -> list[Task]:
    """Tasks over the same inputs, so that the input does not tell which task is meant."""
    return [
        Task(
            name=f"rule-{number}",
            definition=description,
            descriptions=(),
            examples=tuple(Example(text, (rule(text),), idx) for idx, text in enumerate(TEXTS)),
            metric=Metric("exact_match"),
            group=f"rule-{number}",
            split="test",
        )
        for number, (description, rule) in enumerate(RULES.items())
    ]


def main() -> None:
    """Score the tasks under every condition and print likelihood and score of each."""
    arguments = argparse.ArgumentParser(description="Judge generated adapters by their controls.")
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default: embedded)")
    arguments.add_argument("--base", help="copy of the base model (default: the one that it names)")
    arguments.add_argument("--output", type=Path, default=Path("judged"))
    options = arguments.parse_args()

    t2l = TextToLora.from_pretrained(options.model)
    model, tokenizer = load_base(options.base, spec=t2l.spec)
    t2l.attach_base(model, tokenizer)
    tasks = make_tasks()
    sources = Sources(tasks=tasks, generate=lambda texts: t2l.generate(texts).weights)
    report = evaluate_suite(
        base=model,
        tokenizer=tokenizer,
        tasks=tasks,
        conditions=plan_conditions(CONDITIONS, sources),
        output_dir=options.output,
        max_new_tokens=16,
        provenance={"hypernet": t2l.fingerprint},
    )
    for name, figures in report["conditions"].items():
        nll, score = figures["nll"]["mean"], figures["score"]["mean"]
        print(f"{name:12} {nll:.3f} nats a token, {score:.0%} of the answers right")
    print(f"tables and plots: {options.output / 'report.md'}")


if __name__ == "__main__":
    main()
