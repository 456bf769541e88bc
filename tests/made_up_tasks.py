"""Small tasks of made-up words, enough to make synthetic families of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from text_to_lora.tasks.task import Example, Metric, Task

COMMON = ["the", "a", "of", "to", "and", "in", "is", "for", "on", "that"]


def make_tasks(split: str = "train") -> list[Task]:
    rng = Random(1)
    words = {"".join(rng.choices("abcdefgilmnoprst", k=rng.randint(3, 9))) for _ in range(400)}
    vocabulary = ["turquoise", *sorted(words)]

    def sentence() -> str:
        words = rng.choices(vocabulary, k=rng.randint(3, 10)) + rng.sample(COMMON, 3)
        rng.shuffle(words)
        return " ".join(words).capitalize() + rng.choice(".?")

    def task(name: str, rows: list[tuple[str, str]], metric: Metric) -> Task:
        examples = tuple(Example(text, (answer,), i) for i, (text, answer) in enumerate(rows))
        labels = f": {', '.join(metric.labels)}" if metric.labels else ""
        definition = f"Solve {name} well{labels}."
        return Task(name, definition, (), examples, metric, license="CC0", split=split)

    moods, kinds = ("happy", "sad"), ("news", "sport", "art")
    return [
        *(
            task(f"plain{i}", [(sentence(), "x y z x y z") for _ in range(120)], Metric("rougeL"))
            for i in range(9)
        ),
        task(
            "mood",
            [(sentence(), rng.choice(moods)) for _ in range(300)],
            Metric("classification", moods),
        ),
        task(
            "kind",
            [(sentence(), rng.choice(kinds)) for _ in range(300)],
            Metric("classification", kinds),
        ),
        task(
            "opposite",
            [(word.title(), word.title()[::-1]) for word in vocabulary[-300:]],
            Metric("exact_match"),
        ),
        task(
            "record",
            [(f"Person: {sentence()}\nPlace: {sentence()}", "no") for _ in range(300)],
            Metric("rougeL"),
        ),
    ]


def save_tasks(root: Path, answers: Sequence[str]) -> Path:
    """Write a folder of tasks of 20 rows, each of one answer, of a group of its own and of both splits."""
    (root / "own").mkdir(parents=True)
    verbs = ("Say", "Write", "Tell", "Put", "Give")
    tasks = [
        {
            "id": f"say-{answer}",
            "descriptions": [f"{verb} {answer}." for verb in verbs],
            "metric": {"kind": "classification", "labels": [answer, f"not {answer}"]},
            "group": answer,
        }
        for answer in answers
    ]
    rows = [
        {"task_id": f"say-{answer}", "idx": i, "input": "x" * (3 * i % 20 + 1), "outputs": [answer]}
        for answer in answers
        for i in range(20)
    ]
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = [f"say-{answer}" for answer in answers]
    (root / "splits.json").write_text(json.dumps({"train": names, "dev_heldout": names}))
    return root
