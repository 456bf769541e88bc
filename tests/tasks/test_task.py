import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.task import Example, Metric, Task


def make_task(**changes: object) -> Task:
    fields = {
        "name": "t",
        "definition": " Say the word. ",
        "descriptions": ("Say it", "Say the word.", "  ", "Say it "),
        "examples": tuple(Example(f"word {i}", ("word",), i) for i in range(20)),
        "metric": Metric("exact_match"),
    }
    return Task(**{**fields, **changes})  # type: ignore[arg-type]


def test_descriptions_are_distinct_and_stripped_with_the_definition_first() -> None:
    task = make_task()
    assert task.descriptions == ("Say the word.", "Say it")
    assert task.definition == "Say the word."


def test_without_a_definition_the_first_description_stands_for_it() -> None:
    assert make_task(definition="").definition == "Say it"


def test_last_digit_of_idx_decides_what_a_row_is_for() -> None:
    task = make_task()
    digits = {
        "training": {0, 1, 2, 3, 4, 5, 6, 7, 8},
        "validation": {9},
        "support": {0, 1, 2, 3, 4},
        "scored": {5, 6, 7, 8, 9},
    }
    for part, allowed in digits.items():
        assert {row.idx % 10 for row in getattr(task, part)()} == allowed
    assert len(task.training()) + len(task.validation()) == len(task.examples)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Example("a", (), 3), r"example 3 has outputs \(\)"),
        (lambda: Example("a", ("b", " "), 4), r"example 4 has outputs \('b', ' '\)"),
        (lambda: Metric("bleu"), "unknown metric kind 'bleu'; choose one of classification"),  # type: ignore[arg-type]
        (lambda: Metric("classification"), "no labels"),
        (lambda: make_task(definition="", descriptions=(" ",)), "'t' has no description"),
        (lambda: make_task(examples=()), "'t' has no examples"),
    ],
)
def test_what_cannot_work_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_an_output_is_a_label_where_scoring_would_take_it_for_one() -> None:
    metric = Metric("classification", ("Sci/Tech", "Sports"))
    assert metric.has_label(["sci / tech."])
    assert not metric.has_label(["Tech"])
