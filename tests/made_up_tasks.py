"""Small tasks of made-up words, enough to make synthetic families of."""

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
