"""Tasks of one's own become a hypernetwork: python examples/own_tasks.py [--steps 60].

The run is far too short for good adapters. It shows the path: a task folder, settings, training, and an
adapter for a sentence. docs/own-tasks.md says how many tasks and steps a good hypernetwork takes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from text_to_lora import TextToLora
from text_to_lora.training.config import RunConfig
from text_to_lora.training.sft import train_sft

THINGS = ("lamp", "desk", "kettle", "garden", "window", "ladder", "mirror", "carpet", "bottle")
STATES = ("new", "broken", "sold", "wooden", "heavy", "clean", "lost", "green")
TEXTS = [f"the {thing} is {state}" for thing in THINGS for state in STATES]
RULES: dict[str, Callable[[str], str]] = {
    "Write the text in capitals.": str.upper,
    "Reply with the last word of the text.": lambda text: text.split()[-1],
    "Reply with the second word of the text.": lambda text: text.split()[1],
    "Write the words of the text in reverse order.": lambda text: " ".join(text.split()[::-1]),
    "Say how many letters the second word has.": lambda text: str(len(text.split()[1])),
    "Repeat the text without its first word.": lambda text: text.partition(" ")[2],
}


def write_tasks(folder: Path) -> None:
    """Write a task folder: tasks.json says what the tasks are, data.jsonl holds their rows."""
    tasks, rows = [], []
    for number, (text, rule) in enumerate(RULES.items()):
        name = f"rule-{number}"
        metric = {"kind": "exact_match"}
        tasks.append({"id": name, "descriptions": [text], "metric": metric, "group": name})
        rows += [{"task_id": name, "input": text, "outputs": [rule(text)]} for text in TEXTS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.json").write_text(json.dumps(tasks, indent=2), encoding="utf-8")
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def main() -> None:
    """Write tasks, train a hypernetwork on them, and generate an adapter with it."""
    arguments = argparse.ArgumentParser(description="Train a hypernetwork on tasks of one's own.")
    arguments.add_argument("--base", default="embedded", help="base model (default: embedded)")
    arguments.add_argument("--encoder", default="minilm", help="text encoder (default: minilm)")
    arguments.add_argument("--steps", type=int, default=60, help="training steps (default: 60)")
    arguments.add_argument("--output", type=Path, default=Path("own-tasks"))
    options = arguments.parse_args()

    write_tasks(options.output / "tasks")
    folders, steps = [str(options.output / "tasks")], options.steps
    settings = {
        "base": {"name": options.base, "dtype": "auto"},
        "encoder": {"name": options.encoder},
        "hypernet": {"latent_size": 64, "head_in_size": 128},
        "data": {
            "folders": folders,
            "max_prompt_tokens": 128,
            "validation_one_in": 0,
            "family_tasks": 100,  # synthetic tasks on top, which only a description tells apart
            "validation_family_tasks": 0,
        },
        "optimizer": {"lr": 1e-3},
        "run": {"steps": steps, "eval_every": steps, "select_by": "seen_tasks"},
    }
    config = RunConfig.from_dict(settings)
    folder = train_sft(config, output_dir=options.output / "run", report=print)
    t2l = TextToLora.from_pretrained(folder)
    adapters = t2l.generate(["Reply with the first word of the text."])
    (adapter,) = adapters.save(options.output / "adapter", overwrite=True)
    print(f"hypernetwork: {folder}\nadapter of a new sentence: {adapter}")


if __name__ == "__main__":
    main()
