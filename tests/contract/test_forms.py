import pytest

from benchmarks.studies.alignment import FORMS, takes
from text_to_lora.errors import ConfigError
from text_to_lora.tasks.task import Example, Metric, Task


def make_task(definition: str, labels: tuple[str, ...] = ()) -> Task:
    metric = Metric("classification", labels) if labels else Metric("exact_match")
    return Task("task", definition, (), (Example("in", ("out",), 0),), metric)


REVIEW = make_task(
    'In this task you read a film review. Answer "positive" if it is good, or "Negative" if the '
    "review is bad. Positively worded doubts are negative",
    ("positive", "negative"),
)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("one line", "In this task you read a film review."),
        (
            "keywords",
            "read, film, review, answer, positive, good, negative, bad, positively, worded, doubts",
        ),
        (
            "no label names",
            "In this task you read a film review. Answer if it is good, or if the review is bad. "
            "Positively worded doubts are",
        ),
        (
            "label names listed",
            "In this task you read a film review. Answer if it is good, or if the review is bad. "
            "Positively worded doubts are. Answer with one of: positive, negative.",
        ),
    ],
)
def test_a_form_rewrites_the_definition_by_rule(form: str, text: str) -> None:
    assert FORMS[form](REVIEW) == text


def test_a_paragraph_holds_the_definition_and_words_of_no_task() -> None:
    first, second = (FORMS["paragraph"](make_task(text)) for text in ("Sum it", "Spell it."))
    assert first.startswith("Sum it. ") and second.startswith("Spell it. ")
    assert first.removeprefix("Sum it. ") == second.removeprefix("Spell it. ")
    assert len(first.split()) > 50


def test_label_forms_take_tasks_with_a_short_label_set() -> None:
    many = make_task("Name it.", tuple(f"label {i}" for i in range(13)))
    assert takes("no label names", REVIEW) and takes("one line", many)
    assert not takes("no label names", make_task("Sum it."))
    assert not takes("label names listed", many)


def test_a_definition_of_stop_words_has_no_keywords() -> None:
    with pytest.raises(ConfigError, match=r"task 'task' has no word .* 'What is it\?'; leave"):
        FORMS["keywords"](make_task("What is it?"))
