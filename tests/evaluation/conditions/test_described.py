"""Which description makes the adapter of each row."""

from __future__ import annotations

from collections.abc import Callable

from text_to_lora.evaluation.conditions import JUNK, Condition, Junk, Matched, Paraphrase, Shuffled
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row, Task

Generate = Callable[[list[str]], LoraWeights]


def keys(baseline: Condition, rows: list[Row]) -> list[str | None]:
    """Adapter keys; nothing of these conditions stands in the prompt."""
    plan = baseline.plan(rows)
    assert all(setup is None or not (setup.description or setup.shots) for setup in plan)
    return [None if setup is None else setup.adapter for setup in plan]


def test_matched_reads_the_definition(rows: list[Row], generate: Generate) -> None:
    assert keys(Matched(generate), rows) == [row.task.definition for row in rows]


def test_paraphrases_read_the_later_descriptions_of_tasks_that_have_them(
    tasks: list[Task], rows: list[Row], generate: Generate
) -> None:
    short = Task("short", "Do.", (), tasks[0].examples, tasks[0].metric, split="dev")
    rows = [*rows, Row(short, short.examples[5])]
    second = Paraphrase(2, generate)
    assert second.name == "paraphrase.2"
    assert keys(second, rows) == [f"{row.task.definition} Now." for row in rows[:-1]] + [None]


def test_shuffled_reads_the_definition_that_it_is_told(rows: list[Row], generate: Generate) -> None:
    others = {"poems": "Count coins.", "coins": "Name birds.", "birds": "Rhyme."}
    shuffled = Shuffled(3, others, generate)
    assert shuffled.name == "shuffled.3"
    assert keys(shuffled, rows) == [others[row.task.name] for row in rows]


def test_junk_texts_come_in_turn(rows: list[Row], generate: Generate) -> None:
    found = keys(Junk(generate), rows)
    for name in ("poems", "coins", "birds"):
        own = [text for row, text in zip(rows, found, strict=True) if row.task.name == name]
        assert own == list(JUNK) * 2


def test_adapters_are_those_that_the_hypernetwork_makes(
    generate: Generate, same: Callable[[LoraWeights, LoraWeights], bool]
) -> None:
    texts = ["Name birds.", "dogs;cats;bananas;"]
    for baseline in (Matched(generate), Paraphrase(1, generate), Junk(generate)):
        assert same(baseline.adapters(texts), generate(texts))
