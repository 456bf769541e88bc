import re
from collections import Counter
from random import Random

import pytest

from made_up_tasks import make_tasks
from text_to_lora.errors import ConfigError
from text_to_lora.tasks.families import VALIDATION_FAMILIES, families, word_probe
from text_to_lora.tasks.families.word_pool import (
    UNSEEN_WORDS,
    VALIDATION_WORDS,
    WordPool,
    is_held_out,
)
from text_to_lora.tasks.families.wordings import careless
from text_to_lora.tasks.families.words import WORD_FAMILIES
from text_to_lora.tasks.task import Example, Metric, Task


@pytest.fixture(scope="module")
def trained() -> list[Task]:
    return families(make_tasks(), seed=3, num_tasks=600, word_share=1)


@pytest.fixture(scope="module")
def held_out() -> list[Task]:
    return families(make_tasks(), seed=3, split="validation", num_tasks=250, word_share=1)


def of(tasks: list[Task], name: str) -> list[Task]:
    chosen = [task for task in tasks if task.source == f"family:word_{name}"]
    assert chosen, name
    return chosen


def answers(task: Task) -> set[str]:
    return {output for example in task.examples for output in example.outputs}


CONSTANT = ("constant", "name", "greeting", "chosen_name")
LABELLED = ("labels", "sentiment", "several_labels", "renamed_labels", "replaced_labels")


@pytest.mark.parametrize("name", [*CONSTANT, *LABELLED])
def test_answers_stand_in_every_description_exactly_as_they_are_given(
    name: str, trained: list[Task], held_out: list[Task]
) -> None:
    for task in of(trained, name) + of(held_out, name):
        assert all(answer in text for text in task.descriptions for answer in answers(task)), (
            task.name
        )
        assert answers(task) == set(task.metric.labels) or (
            name in CONSTANT and len(answers(task)) == 1
        )


def test_capitals_are_asked_of_words_that_the_description_writes_small(trained: list[Task]) -> None:
    for task in of(trained, "capitals") + of(trained, "capital_labels"):
        for answer in answers(task):
            assert answer.isupper()
            assert all(answer.lower() in text for text in task.descriptions)


def common_word(task: Task) -> str:
    """The word or phrase that all rows share beside the input."""
    words = Counter(
        example.outputs[0].replace(example.input, "").strip() for example in task.examples
    )
    return words.most_common(1)[0][0]


def test_words_are_put_around_and_into_the_message(
    trained: list[Task], held_out: list[Task]
) -> None:
    for name, form in (("start", "{word} {text}"), ("end", "{text} {word}")):
        for task in of(trained, name):
            word = common_word(task)
            assert all(word in text for text in task.descriptions)
            for example in task.examples:
                assert example.outputs == (form.format(word=word, text=example.input),)
    for name, start, stop in (
        ("between", 1, 1),
        ("replace_first", 0, 1),
        ("replace_last", -1, None),
    ):
        for task in of(held_out, name):
            for example in task.examples:
                words = example.input.split()
                head = " ".join(words[:start])
                tail = "" if stop is None else " ".join(words[stop:])
                answer = example.outputs[0]
                assert answer.startswith(head) and answer.endswith(tail)
                word = answer[len(head) : len(answer) - len(tail)].strip()
                assert all(word in text for text in task.descriptions)


def test_the_neighbour_of_the_given_word_is_answered(trained: list[Task]) -> None:
    for name, step in (("next", 1), ("previous", -1)):
        for task in of(trained, name):
            common = set.intersection(*(set(e.input.split()) for e in task.examples))
            (word,) = {w for w in common if all(w in text for text in task.descriptions)}
            for example in task.examples:
                words = example.input.split()
                assert example.outputs == (words[words.index(word) + step],)


def test_numbers_of_the_description_are_used(trained: list[Task]) -> None:
    def number(task: Task) -> int:
        digits = [n for text in task.descriptions for n in re.findall(r"\d+", text)]
        return int(Counter(digits).most_common(1)[0][0])

    for task in of(trained, "first_words"):
        for example in task.examples:
            assert example.outputs[0].split() == example.input.split()[: number(task)]
    for name, sign in (("add", 1), ("subtract", -1)):
        for task in of(trained, name):
            for example in task.examples:
                (given,) = re.findall(r"\d+", example.input)
                assert int(example.outputs[0]) == int(given) + sign * number(task)
    for task in of(trained, "times"):
        (answer,) = answers(task)
        assert len(answer.split()) == number(task)
        assert len(set(answer.split())) == 1
    for task in of(trained, "repeat"):
        for example in task.examples:
            assert example.outputs[0].count(example.input) == number(task)


def test_questions_and_numbers_are_labelled_by_a_rule_written_apart(trained: list[Task]) -> None:
    checked = Counter()
    for task in of(trained, "labels"):
        yes, _ = task.metric.labels
        for name, sign, holds in (
            ("question", "question", lambda text: text.endswith("?")),
            ("number", "digits", lambda text: any(map(str.isdigit, text))),
            ("vowel", "vowel", lambda text: text[0] in "AEIOU"),
        ):
            if sum(sign in text for text in task.descriptions) > 4:
                checked[name] += 1
                for example in task.examples:
                    assert (example.outputs[0] == yes) == holds(example.input), task.descriptions
    assert min(checked[name] for name in ("question", "number", "vowel")) > 2


def test_labels_come_about_equally_often(trained: list[Task]) -> None:
    for task in of(trained, "labels") + of(trained, "sentiment"):
        counts = Counter(example.outputs[0] for example in task.examples)
        assert min(counts.values()) > 0.3 * len(task.examples), task


def test_training_and_validation_share_no_word() -> None:
    train, validation = WordPool("train"), WordPool("validation")
    assert len(train.common) > 2000 and len(train.rare) > 1000
    assert len(validation.common) > 200 and len(validation.rare) > 100
    rng = Random(0)
    for draw in ("word", "invented", "code"):
        drawn = [
            {getattr(pool, draw)(rng).casefold() for _ in range(1000)}
            for pool in (train, validation)
        ]
        assert not drawn[0] & drawn[1]
        assert not drawn[0] & (UNSEEN_WORDS | VALIDATION_WORDS | {"lantern", "plumbum"})


def test_no_task_of_training_answers_with_a_held_out_word(trained: list[Task]) -> None:
    for name in (*CONSTANT[::3], *LABELLED[:2]):
        for task in of(trained, name):
            for answer in answers(task):
                parts = [answer] if re.search(r"\d", answer) else answer.split()
                assert not any(map(is_held_out, parts)), answer


def test_some_wordings_are_of_validation_alone(trained: list[Task], held_out: list[Task]) -> None:
    def texts(tasks: list[Task]) -> str:
        return "\n".join(t for task in of(tasks, "constant") for t in task.descriptions).casefold()

    assert "your only answer" in texts(held_out)
    assert "your only answer" not in texts(trained)


def test_every_word_family_is_made_in_its_splits(trained: list[Task], held_out: list[Task]) -> None:
    for split, tasks in (("train", trained), ("validation", held_out)):
        names = {f"family:{family.name}" for family in WORD_FAMILIES}
        if split == "train":
            names -= {f"family:{name}" for name in VALIDATION_FAMILIES}
        assert {task.source for task in tasks} == {
            *names,
            "family:word_renamed_labels",
            "family:word_replaced_labels",
        }
        assert all(
            len(task.descriptions) >= 8 for task in tasks if "replaced_labels" not in task.source
        )


def test_tasks_have_twenty_to_forty_rows_and_inputs_stay_in_their_part(
    trained: list[Task], held_out: list[Task]
) -> None:
    digits: dict[str, set[bool]] = {}
    for task in trained + held_out:
        if not re.search("renamed|replaced", task.name):
            assert 16 <= len(task.examples) <= 40
        for example in task.examples:
            digits.setdefault(example.input, set()).add(example.idx % 10 == 9)
    assert all(len(parts) == 1 for parts in digits.values())
    assert all(example.idx % 10 == 9 for task in held_out for example in task.examples)
    assert sum(len(task.validation()) >= 2 for task in trained) > 0.95 * len(trained)


def test_inputs_are_sentences_and_real_inputs_alike(trained: list[Task]) -> None:
    real = {example.input for task in make_tasks() for example in task.examples}
    inputs = [e.input for task in of(trained, "constant") for e in task.examples]
    assert 0.3 < sum(text in real for text in inputs) / len(inputs) < 0.7


def test_descriptions_are_typed_with_and_without_care() -> None:
    rng = Random(0)
    texts = [careless("Always answer with the word <word>.", rng) for _ in range(2000)]
    assert all(text.count("<word>") == 1 for text in texts)
    plain = Counter(texts)["Always answer with the word <word>."] / len(texts)
    assert 0.2 < plain < 0.6
    assert 0.2 < sum(text == text.lower() for text in texts) / len(texts) < 0.4
    assert 0.15 < sum(text.endswith("<word>") for text in texts) / len(texts) < 0.4
    assert 0.03 < sum(len(text.split()) > 12 for text in texts) / len(texts) < 0.15
    assert any("always answer with the word" not in text.lower() for text in texts)


def test_the_share_tells_how_many_tasks_are_of_the_word_families() -> None:
    for share, expected in ((0, 0), (0.25, 10), (0.5, 20), (1, 40)):
        tasks = families(make_tasks(), seed=1, num_tasks=40, word_share=share)
        assert sum(task.source.startswith("family:word_") for task in tasks) >= expected
        others = families(make_tasks(), seed=1, num_tasks=40 - expected, word_share=0)
        assert tasks[: 40 - expected] == others
    with pytest.raises(ConfigError, match=r"word_share is 1\.5; give a share from 0 to 1"):
        families(make_tasks(), seed=1, word_share=1.5)


def test_probes_are_half_constants_and_all_of_unseen_words() -> None:
    probes = word_probe(5, 80)
    kinds = Counter(probe.kind for probe in probes)
    assert kinds == {"constant": 40, "label": 20, "start": 10, "end": 10}
    assert probes == word_probe(5, 80) != word_probe(6, 80)
    for probe in probes:
        word = probe.answer.replace(probe.input, "").strip()
        assert word in probe.description and is_held_out(word)
        if probe.kind in ("constant", "label"):
            assert probe.answer == word


def test_a_real_task_with_too_few_rows_is_passed_over() -> None:
    plain, *_ = (task for task in make_tasks() if task.name.startswith("plain"))
    small = Task(
        "small",
        "Say up or down.",
        (),
        tuple(Example(f"{n} goes up now", ("up",), n) for n in range(12)),
        Metric("classification", ("up", "down")),
        license="CC0",
    )
    tasks = families([plain, small], seed=0, num_tasks=40, word_share=1)
    assert len(tasks) == 40
    assert not any("renamed" in task.name for task in tasks)
