"""Makes synthetic tasks of all families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.families.family import Draft, Family, Split, SyntheticRow
from text_to_lora.tasks.families.labels import (
    LABEL_FAMILIES,
    WORD_RENAMED_LABELS,
    WORD_REPLACED_LABELS,
)
from text_to_lora.tasks.families.operations import CONSTANT, TEXT_FAMILIES
from text_to_lora.tasks.families.records import RECORD_FAMILIES
from text_to_lora.tasks.families.source import MIN_EXAMPLES, Source
from text_to_lora.tasks.families.words import WORD_FAMILIES
from text_to_lora.tasks.task import Example, Task

FAMILIES: tuple[Family, ...] = (*TEXT_FAMILIES, *LABEL_FAMILIES, *RECORD_FAMILIES, CONSTANT)

VALIDATION_FAMILIES: tuple[str, ...] = (
    "last_words",
    "shortest_word",
    "swap_ends",
    "title_case",
    "count_words_with_letter",
    "ends_with_letter",
    "answer_in_brackets",
    "one_label_or_not",
    "longest_item",
    "word_replace_last",
    "word_both_ends",
)
"""Never in training, so that validation asks for operations that were not practised.

One or two of each kind (part of the text, rewriting, number, yes or no, format of the answer, labels,
position, words), each near to a family that is trained (last_word, longest_word, first_word, ...):
following the new description must be possible, repeating a trained task must fail.
"""

REAL_LABEL_SHARES = {WORD_REPLACED_LABELS: 0.25, WORD_RENAMED_LABELS: 0.1}
"""Shares of the word tasks that are real tasks with words of the word pool for their labels."""


def families(
    tasks: Sequence[Task],
    *,
    seed: int,
    split: Split = "train",
    num_tasks: int = 800,
    word_share: float = 0.5,
) -> list[Task]:
    """Make synthetic tasks over the inputs of training tasks; equal arguments give equal tasks.

    The example's idx ends in 9 exactly where its source's did, so `Task.training()` and
    `Task.validation()` never share an input. With split "validation" the families of
    `VALIDATION_FAMILIES` are made, and the label and word families with label sets and words of
    validation, over inputs whose idx ends in 9.

    word_share: share of the tasks that are of the word families, whose description carries the
        words of the answer; validation has words and some wordings of its own

    Raises ConfigError for a task of a held-out split, an unknown split, a share that is not from 0
    to 1, or tasks with too few short inputs.
    """
    if not 0 <= word_share <= 1:
        raise ConfigError(f"word_share is {word_share}; give a share from 0 to 1")
    if split not in ("train", "validation"):
        raise ConfigError(f"families for split {split!r}; choose 'train' or 'validation'")
    for task in tasks:
        if task.split not in ("train", "train_noncommercial"):
            raise ConfigError(
                f"task {task.name!r} is of split {task.split!r}; families are made of training tasks"
            )
    source = Source(tasks, split, seed)
    if len(source.texts) < MIN_EXAMPLES or len(source.vocabulary) < MIN_EXAMPLES:
        raise ConfigError(
            f"families need {MIN_EXAMPLES} inputs of 3 to 30 plain words and as many different "
            f"words; the tasks have {len(source.texts)} and {len(source.vocabulary)}; add tasks"
        )
    held_out_inputs = {example.input.strip() for task in tasks for example in task.validation()}
    num_word_tasks = round(num_tasks * word_share)
    synthetic: list[Task] = []
    for drafts, end in (
        (_drafts(source, seed), num_tasks - num_word_tasks),
        (_word_drafts(source, seed), num_tasks),
    ):
        attempts = 0
        while len(synthetic) < end:
            attempts += 1
            if attempts > 100 * (end + len(FAMILIES)):
                raise ConfigError(
                    f"only {len(synthetic)} of {num_tasks} families could be made; add tasks"
                )
            family, draft = next(drafts)
            rows = _without_inputs(draft.rows, held_out_inputs) if draft else []
            if draft and len(rows) >= MIN_EXAMPLES:
                number = f"{split}.{len(synthetic)}"
                synthetic.append(_named_task(family, draft, rows, number))
    return synthetic


def _drafts(source: Source, seed: int) -> Iterator[tuple[Family, Draft | None]]:
    """Draw tasks without end, in rounds over all families of the split but the word families."""
    if source.split == "train":
        weights = {f: f.texts["weight"] for f in FAMILIES if f.name not in VALIDATION_FAMILIES}
    else:
        weights = {
            f: 2 for f in FAMILIES if f.name in (*VALIDATION_FAMILIES, "renamed_labels", "constant")
        }
    return _in_rounds(weights, source, f"{seed}/{source.split}")


def _word_drafts(source: Source, seed: int) -> Iterator[tuple[Family, Draft | None]]:
    """Draw tasks of the word families without end, REAL_LABEL_SHARES of them over real labels."""
    left_out = VALIDATION_FAMILIES if source.split == "train" else ()
    weights = {f: f.texts["weight"] for f in WORD_FAMILIES if f.name not in left_out}
    drafts = _in_rounds(weights, source, f"{seed}/{source.split}/words")
    for attempt in count():
        rng = Random(f"{seed}/{source.split}/renamed/{attempt}")
        place = rng.random()
        for family, share in REAL_LABEL_SHARES.items() if source.labelled else ():
            if place < share:
                yield family, family.draft(rng, source)
                break
            place -= share
        else:
            yield next(drafts)


def _in_rounds(
    weights: Mapping[Family, int], source: Source, seed: str
) -> Iterator[tuple[Family, Draft | None]]:
    one_round = [family for family, weight in weights.items() for _ in range(weight)]
    for attempt in count():
        rng = Random(f"{seed}/{attempt}")
        if attempt % len(one_round) == 0:
            rng.shuffle(one_round)
        family = one_round[attempt % len(one_round)]
        yield family, family.draft(rng, source)


def _without_inputs(rows: Sequence[SyntheticRow], held_out_inputs: set[str]) -> list[SyntheticRow]:
    """Leave out the rows of training whose input is one of validation, here or in a real task."""
    inputs_here = {text for text, _, digit in rows if digit == 9}
    return [
        row
        for row in rows
        if row[2] == 9 or not (row[0].strip() in held_out_inputs or row[0].strip() in inputs_here)
    ]


def _named_task(family: Family, draft: Draft, rows: Sequence[SyntheticRow], number: str) -> Task:
    return Task(
        name=f"family.{family.name}.{number}",
        definition="",
        descriptions=draft.descriptions,
        examples=tuple(
            Example(text, outputs, 10 * place + digit)
            for place, (text, outputs, digit) in enumerate(rows)
        ),
        metric=draft.metric,
        license=draft.origin.license if draft.origin else "as the training tasks that it draws on",
        source=f"family:{family.name}",
        group=f"family:{family.name}",
        category="family",
    )
