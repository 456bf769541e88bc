import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from made_up_tasks import make_tasks
from text_to_lora.errors import ConfigError
from text_to_lora.tasks.families import FAMILIES, VALIDATION_FAMILIES, families
from text_to_lora.tasks.families.collect import REAL_LABEL_SHARES
from text_to_lora.tasks.families.family import load_texts
from text_to_lora.tasks.families.word_pool import UNSEEN_WORDS, VALIDATION_WORDS
from text_to_lora.tasks.families.words import WORD_FAMILIES
from text_to_lora.tasks.task import Task

ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]


@pytest.fixture(scope="module")
def trained() -> list[Task]:
    return families(make_tasks(), seed=3, num_tasks=400, word_share=0)


@pytest.fixture(scope="module")
def held_out() -> list[Task]:
    return families(make_tasks(), seed=3, split="validation", num_tasks=120, word_share=0)


def of(tasks: list[Task], name: str) -> list[Task]:
    chosen = [task for task in tasks if task.source == f"family:{name}"]
    assert chosen, name
    return chosen


def plain(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def ordinal(descriptions: tuple[str, ...]) -> int:
    """The position that most wordings name, from 1."""
    votes = [
        i + 1
        for text in descriptions
        for i, word in enumerate(ORDINALS)
        if re.search(rf"\b({word}|{i + 1})\b", text)
    ]
    return max(votes, key=votes.count)


RULES: dict[str, Callable[[str, tuple[str, ...]], str]] = {
    "first_word": lambda text, descriptions: plain(text)[0],
    "last_word": lambda text, descriptions: plain(text)[-1],
    "nth_word": lambda text, descriptions: plain(text)[ordinal(descriptions) - 1],
    "nth_word_from_end": lambda text, descriptions: plain(text)[::-1][ordinal(descriptions) - 1],
    "longest_word": lambda text, descriptions: max(plain(text), key=len),
    "shortest_word": lambda text, descriptions: min(plain(text), key=len),
    "count_words": lambda text, descriptions: str(text.count(" ") + 1),
    "initials": lambda text, descriptions: "".join(re.findall(r"\b\w", text)).upper(),
    "copy": lambda text, descriptions: text,
    "capitals": lambda text, descriptions: "".join(letter.upper() for letter in text),
    "small_letters": lambda text, descriptions: "".join(letter.lower() for letter in text),
    "title_case": lambda text, descriptions: re.sub(r"\W+", " ", text).title().strip(),
    "reversed_words": lambda text, descriptions: " ".join(
        plain(text)[i] for i in range(-1, -1 - text.count(" ") - 1, -1)
    ),
    "every_second_word": lambda text, descriptions: " ".join(w for w in plain(text)[::2]),
    "line": lambda text, descriptions: text.split("\n")[ordinal(descriptions) - 1],
    "item": lambda text, descriptions: plain(text)[ordinal(descriptions) - 1],
    "last_item": lambda text, descriptions: plain(text)[-1],
    "longest_item": lambda text, descriptions: max(plain(text), key=len),
    "count_items": lambda text, descriptions: str(len(plain(text))),
    "first_item_by_alphabet": lambda text, descriptions: min(plain(text)),
}


@pytest.mark.parametrize("name", RULES)
def test_answers_follow_a_rule_written_apart(
    name: str, trained: list[Task], held_out: list[Task]
) -> None:
    for task in of(held_out if name in VALIDATION_FAMILIES else trained, name):
        for example in task.examples:
            assert example.outputs == (RULES[name](example.input, task.descriptions),)


def test_every_family_is_made_in_the_split_that_it_belongs_to(
    trained: list[Task], held_out: list[Task]
) -> None:
    names = {f"family:{family.name}" for family in FAMILIES}
    validation = {f"family:{name}" for name in VALIDATION_FAMILIES}
    assert {task.source for task in trained} == names - validation
    assert {task.source for task in held_out} == (validation & names) | {
        "family:renamed_labels",
        "family:constant",
    }


def test_every_task_has_many_wordings_without_template_signs(
    trained: list[Task], held_out: list[Task]
) -> None:
    assert all(len(task.descriptions) >= 8 for task in trained)
    assert len({text for task in trained for text in task.descriptions}) > 3000
    for task in trained + held_out:
        if "json" not in task.name and "quoted" not in task.name:
            assert not re.search(r"[\[\]%<|]|  ", "\n".join(task.descriptions)), task.descriptions


REAL = {example.input: example.outputs[0] for task in make_tasks() for example in task.examples}


@pytest.mark.parametrize("name", ["renamed_labels", "permuted_labels"])
def test_renamed_labels_stand_in_every_wording_and_keep_which_rows_are_alike(
    name: str, trained: list[Task]
) -> None:
    for task in of(trained, name):
        old = ("happy", "sad") if "mood" in task.definition else ("news", "sport", "art")
        for text in task.descriptions:
            assert all(label in text for label in (*task.metric.labels, *old)), text
            assert f"Solve {'mood' if 'happy' in old else 'kind'} well" in text
        pairs = {(REAL[e.input], e.outputs) for e in task.examples}
        assert (
            len(pairs) == len({before for before, _ in pairs}) == len({after for _, after in pairs})
        )
        assert all(before not in after for before, after in pairs)


def test_a_wrong_label_is_any_but_the_right_one(trained: list[Task]) -> None:
    for task in of(trained, "wrong_label"):
        for example in task.examples:
            assert {*example.outputs, REAL[example.input]} == set(task.metric.labels)
            assert REAL[example.input] not in example.outputs


def test_the_inverse_leads_back(trained: list[Task]) -> None:
    for task in of(trained, "inverse"):
        assert all(e.input in {o[::-1] for o in e.outputs} for e in task.examples)


def test_fields_are_chosen_by_name(trained: list[Task]) -> None:
    for task in of(trained, "field") + of(trained, "made_field"):
        names = re.findall(r"^(\w+):", task.examples[0].input, re.MULTILINE)
        (field,) = {n for n in names if sum(f"{n}" in text for text in task.descriptions) >= 8}
        for example in task.examples:
            assert f"{field}: {example.outputs[0]}" in example.input.split("\n")


def test_constants_are_in_every_wording_and_never_an_unseen_word(
    trained: list[Task], held_out: list[Task]
) -> None:
    constants = {}
    for split, tasks in (("train", trained), ("validation", held_out)):
        for task in of(tasks, "constant"):
            (answer,) = {example.outputs for example in task.examples}
            assert all(answer[0] in text for text in task.descriptions)
            constants.setdefault(split, set()).update(answer[0].split())
    assert not constants["train"] & constants["validation"]
    assert not constants["train"] & (VALIDATION_WORDS | UNSEEN_WORDS)
    assert not constants["validation"] & UNSEEN_WORDS


def test_validation_labels_are_words_of_validation(held_out: list[Task]) -> None:
    for name in ("renamed_labels", "ends_with_letter", "one_label_or_not"):
        for task in of(held_out, name):
            assert set(task.metric.labels) <= VALIDATION_WORDS


def test_conditions_are_balanced_and_name_both_words(trained: list[Task]) -> None:
    for name in ("contains_letter", "contains_word", "longer_than", "first_word_longer"):
        for task in of(trained, name):
            answers = [example.outputs[0] for example in task.examples]
            assert set(answers) == set(task.metric.labels)
            assert 0.3 < answers.count(task.metric.labels[0]) / len(answers) < 0.7
            assert all(label in text for text in task.descriptions for label in task.metric.labels)


def test_answers_in_a_form_are_the_real_answers(trained: list[Task], held_out: list[Task]) -> None:
    for task in of(trained, "answer_as_json"):
        values = [json.loads(example.outputs[0]) for example in task.examples]
        (key,) = {tuple(value) for value in values}
        assert all(key[0] in text for text in task.descriptions)
    for task in of(trained, "answer_in_capitals"):
        assert all(example.outputs[0].isupper() for example in task.examples)
    for task in of(held_out, "answer_in_brackets"):
        assert all(re.fullmatch(r"\[[^\[\]]+\]", e.outputs[0]) for e in task.examples)


def test_validation_rows_have_inputs_that_no_training_row_of_the_task_has(
    trained: list[Task], held_out: list[Task]
) -> None:
    real = {e.input: e.idx for task in make_tasks() for e in task.examples}
    for task in trained:
        inputs = {example.input for example in task.validation()}
        assert inputs.isdisjoint(example.input for example in task.training())
        for example in task.examples:
            if example.input in real and task.source != "family:inverse":
                assert (real[example.input] % 10 == 9) == (example.idx % 10 == 9)
        assert len({example.idx for example in task.examples}) == len(task.examples)
    assert all(example.idx % 10 == 9 for task in held_out for example in task.examples)


def test_the_same_inputs_come_under_many_families(trained: list[Task]) -> None:
    sources: dict[str, set[str]] = {}
    for task in trained:
        for example in task.examples:
            sources.setdefault(example.input, set()).add(task.source)
    shared = sorted(map(len, sources.values()))[-300:]
    assert shared[0] >= 5


def test_answers_are_short(trained: list[Task]) -> None:
    lengths = [len(e.outputs[0].split()) for task in trained for e in task.examples]
    assert sum(length <= 12 for length in lengths) > 0.95 * len(lengths)


def test_families_are_equal_in_fresh_processes() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from made_up_tasks import make_tasks; "
        "from text_to_lora.tasks.families import families; from hashlib import sha256; "
        "print(sha256(repr(families(make_tasks(), seed=3, num_tasks=20)).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parents[2])],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'plain0' is of split 'dev_heldout'; families are made"):
        families(make_tasks("dev_heldout"), seed=0)
    with pytest.raises(ConfigError, match="split 'test'; choose 'train' or 'validation'"):
        families(make_tasks(), seed=0, split="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"16 inputs of 3 to 30 plain words .* have 0 and 0"):
        families(make_tasks()[-2:-1], seed=0)


def fingerprint(tasks: list[Task]) -> str:
    content = [
        (task.name, task.descriptions, [(e.input, e.outputs, e.idx) for e in task.examples])
        for task in tasks
    ]
    return sha256(repr(content).encode()).hexdigest()[:16]


def test_tasks_of_a_seed_never_change(trained: list[Task], held_out: list[Task]) -> None:
    # Runs record only the seed.
    assert fingerprint(trained) == "772ce57f2b743b66"
    assert fingerprint(held_out) == "0cab3e29fcba9ed8"
    assert fingerprint(families(make_tasks(), seed=3, num_tasks=60)) == "74f3346d09e9bbc9"


def test_every_entry_of_a_yaml_file_is_of_a_family_and_has_a_weight() -> None:
    files = ("text", "conditions", "formats", "labels", "records", "words", "word_labels")
    entries = {name: entry for file in files for name, entry in load_texts(file).items()}
    names = {family.name for family in (*FAMILIES, *WORD_FAMILIES, *REAL_LABEL_SHARES)}
    assert entries.keys() == names | {"properties", "kinds", "topics"}
    assert all(entries[name]["weight"] > 0 for name in names)
