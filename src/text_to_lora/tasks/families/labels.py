"""Families over real tasks whose labels are renamed, exchanged, avoided or looked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.family import (
    DESCRIPTIONS_PER_TASK,
    EXACT_MATCH,
    Draft,
    Family,
    FamilyTexts,
    SyntheticRow,
    families_of,
)
from text_to_lora.tasks.families.source import (
    MAX_INPUT_WORDS,
    Source,
    in_turns,
    one_task,
    task_phrases,
    task_texts,
)
from text_to_lora.tasks.families.wordings import wordings
from text_to_lora.tasks.task import Example, Metric, Task
from text_to_lora.tasks.texts import distinct_texts


def _map_labels(
    task: Task, rng: Random, mapping: Mapping[str, Sequence[str]]
) -> list[SyntheticRow]:
    """Draw rows, the labels in turn; an output becomes the outputs that `mapping` gives."""
    by_label: dict[str, list[SyntheticRow]] = {}
    for example in rng.sample(task.examples, len(task.examples)):
        if len(example.input.split()) <= MAX_INPUT_WORDS and all(
            output in mapping for output in example.outputs
        ):
            outputs = distinct_texts(new for old in example.outputs for new in mapping[old])
            by_label.setdefault(example.outputs[0], []).append(
                (example.input, outputs, example.idx % 10)
            )
    return in_turns(by_label.values())


def _over_real_task(
    rng: Random,
    source: Source,
    texts: FamilyTexts,
    task: Task,
    rows: Sequence[SyntheticRow],
    labels: Sequence[str] = (),
    **values: str,
) -> Draft:
    """Make a task whose descriptions hold those of a real task; labels: none where answers are texts."""
    return Draft(
        wordings(texts["frames"], rng, values={"task": task_phrases(task, rng), **values}),
        source.limit(rows),
        Metric("classification", tuple(labels)) if labels else EXACT_MATCH,
        task,
    )


def _renamed_labels(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    labels = source.labels(rng, len(task.metric.labels))
    if {*map(str.lower, labels)} & {*map(str.lower, task.metric.labels)}:
        return None
    return _relabelled(rng, source, texts, task, labels)


def _permuted_labels(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    shift = rng.randint(1, len(labels) - 1)
    return _relabelled(rng, source, texts, task, labels[shift:] + labels[:shift])


def _word_renamed_labels(rng: Random, source: Source, texts: FamilyTexts) -> Draft:
    task = rng.choice(source.labelled)
    return _relabelled(rng, source, texts, task, source.pool.labels(rng, len(task.metric.labels)))


def _relabelled(
    rng: Random, source: Source, texts: FamilyTexts, task: Task, labels: Sequence[str]
) -> Draft:
    """Make a task whose descriptions say which new label stands for each of the real ones."""
    new = dict(zip(task.metric.labels, labels, strict=True))
    pairs, instead = [], []
    for _ in range(DESCRIPTIONS_PER_TASK):
        order = rng.sample(list(new.items()), len(new))
        pair = rng.choice(texts["pairs"])
        pairs.append(rng.choice((", ", "; ")).join(pair.format(*item) for item in order))
        word = rng.choice(texts["instead"])
        parts = [word.format(*item) for item in order]
        instead.append(", ".join(parts[:-1]) + " and " + parts[-1])
    values = {"task": task_phrases(task, rng), "pairs": pairs, "instead": instead}
    descriptions = wordings(texts["frames"], rng, values=values)
    return _with_new_labels(rng, source, task, new, descriptions)


def _word_replaced_labels(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    """Make a task whose descriptions name new labels where the real ones stood."""
    task = rng.choice(source.labelled)
    words = source.pool.labels(rng, len(task.metric.labels))
    new = dict(zip(task.metric.labels, words, strict=True))
    replaced_texts = [_with_labels(text, new) for text in task_texts(task)]
    descriptions = tuple(text for text in replaced_texts if text)[:DESCRIPTIONS_PER_TASK]
    return _with_new_labels(rng, source, task, new, descriptions) if descriptions else None


def _with_new_labels(
    rng: Random, source: Source, task: Task, new: Mapping[str, str], descriptions: tuple[str, ...]
) -> Draft:
    rows = _map_labels(task, rng, {old: (label,) for old, label in new.items()})
    return Draft(
        descriptions, source.limit(rows), Metric("classification", tuple(new.values())), task
    )


def _with_labels(text: str, new: Mapping[str, str]) -> str | None:
    """Put new labels where the old ones stand, None where one of them is not named.

    A label of one or two letters has to stand in quotes, a longer one may stand in any case: "no"
    and "a" are words of their own.
    """
    labels = sorted(new, key=len, reverse=True)
    for place, label in enumerate(labels):
        word = re.escape(label)
        pattern = rf"(?<!\w){word}(?!\w)" if len(label) > 2 else rf"(?<=[\"'`]){word}(?=[\"'`])"
        text, count = re.subn(pattern, f"\0{place}\0", text, flags=re.IGNORECASE)
        if not count:
            return None
    for place, label in enumerate(labels):
        text = text.replace(f"\0{place}\0", new[label])
    return text


def _wrong_label(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    mapping = {label: [other for other in labels if other != label] for label in labels}
    # one right label, so that every other one is wrong
    rows = [row for row in _map_labels(task, rng, mapping) if len(row[1]) == len(labels) - 1]
    return _over_real_task(rng, source, texts, task, rows, labels, options=", ".join(labels))


def _one_label_or_not(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    task = one_task(rng, [task for task in source.labelled if len(task.metric.labels) > 2])
    if task is None:
        return None
    label = rng.choice(task.metric.labels)
    yes, no = source.yes_no(rng)
    mapping = {other: (yes if other == label else no,) for other in task.metric.labels}
    rows = [row for row in _map_labels(task, rng, mapping) if len(row[1]) == 1]
    return _over_real_task(rng, source, texts, task, rows, (yes, no), label=label, yes=yes, no=no)


def _inverse(rng: Random, source: Source, texts: FamilyTexts) -> Draft | None:
    task = one_task(rng, source.paired)
    if task is None:
        return None
    inputs: dict[tuple[str, bool], list[Example]] = {}
    for example in rng.sample(task.examples, len(task.examples)):
        inputs.setdefault((example.outputs[0], example.idx % 10 == 9), []).append(example)
    rows = [
        (answer, distinct_texts(e.input for e in examples), examples[0].idx % 10)
        for (answer, _), examples in inputs.items()
    ]
    return _over_real_task(rng, source, texts, task, rows)


LABEL_FAMILIES: tuple[Family, ...] = families_of(
    "labels",
    {
        "renamed_labels": _renamed_labels,
        "permuted_labels": _permuted_labels,
        "wrong_label": _wrong_label,
        "one_label_or_not": _one_label_or_not,
        "inverse": _inverse,
    },
)

WORD_RENAMED_LABELS, WORD_REPLACED_LABELS = families_of(
    "labels",
    {"word_renamed_labels": _word_renamed_labels, "word_replaced_labels": _word_replaced_labels},
)
"""Real tasks with words of the word pool for their labels; there has to be a task with labels.

The second names the new labels in the real task's descriptions, where its labels stood.
"""
