"""Families over real tasks whose labels are renamed, exchanged, avoided or looked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from text_to_lora.tasks.families.family import (
    DESCRIPTIONS_PER_TASK,
    Draft,
    Family,
    SyntheticRow,
)
from text_to_lora.tasks.families.source import (
    MAX_INPUT_WORDS,
    Source,
    in_turns,
    one_task,
    task_phrases,
    task_texts,
)
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import wordings
from text_to_lora.tasks.task import Example, Metric, Task, distinct_texts

_TEXTS = load_texts("labels")


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


def _renamed_labels(rng: Random, source: Source) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    new = source.labels(rng, len(task.metric.labels))
    if {*map(str.lower, new)} & {*map(str.lower, task.metric.labels)}:
        return None
    return _relabelled(rng, source, task, dict(zip(task.metric.labels, new, strict=True)))


def _permuted_labels(rng: Random, source: Source) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    shift = rng.randint(1, len(labels) - 1)
    return _relabelled(
        rng, source, task, dict(zip(labels, labels[shift:] + labels[:shift], strict=True))
    )


def _relabelled(rng: Random, source: Source, task: Task, new: dict[str, str]) -> Draft:
    pairs, instead = [], []
    for _ in range(DESCRIPTIONS_PER_TASK):
        order = rng.sample(list(new.items()), len(new))
        pair = rng.choice(
            ("{0} -> {1}", "{0} = {1}", "'{0}' is '{1}'", "{0} becomes {1}", "{1} for {0}")
        )
        pairs.append(rng.choice((", ", "; ")).join(pair.format(*item) for item in order))
        word = rng.choice(("{1} instead of {0}", "{1} for {0}", "'{1}' if it is '{0}'"))
        parts = [word.format(*item) for item in order]
        instead.append(", ".join(parts[:-1]) + " and " + parts[-1])
    return Draft(
        wordings(
            _TEXTS["renamed_labels"]["frames"],
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": task_phrases(task, rng), "pairs": pairs, "instead": instead},
        ),
        source.limit(_map_labels(task, rng, {old: (label,) for old, label in new.items()})),
        Metric("classification", tuple(new.values())),
        task,
    )


def _word_renamed_labels(rng: Random, source: Source) -> Draft:
    task = rng.choice(source.labelled)
    words = source.pool.labels(rng, len(task.metric.labels))
    return _relabelled(rng, source, task, dict(zip(task.metric.labels, words, strict=True)))


def _word_replaced_labels(rng: Random, source: Source) -> Draft | None:
    """Make a task whose descriptions name new labels where the real ones stood."""
    task = rng.choice(source.labelled)
    words = source.pool.labels(rng, len(task.metric.labels))
    new = dict(zip(task.metric.labels, words, strict=True))
    texts = [_with_labels(text, new) for text in task_texts(task)]
    descriptions = tuple(text for text in texts if text)[:DESCRIPTIONS_PER_TASK]
    if not descriptions:
        return None
    return Draft(
        descriptions,
        source.limit(_map_labels(task, rng, {old: (label,) for old, label in new.items()})),
        Metric("classification", tuple(words)),
        task,
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


def _wrong_label(rng: Random, source: Source) -> Draft | None:
    task = one_task(rng, source.labelled)
    if task is None:
        return None
    labels = task.metric.labels
    mapping = {label: [other for other in labels if other != label] for label in labels}
    rows = [
        row
        for row in _map_labels(task, rng, mapping)
        if len(row[1]) == len(labels) - 1  # one right label, so that every other one is wrong
    ]
    return Draft(
        wordings(
            _TEXTS["wrong_label"]["frames"],
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": task_phrases(task, rng), "labels": ", ".join(labels)},
        ),
        source.limit(rows),
        Metric("classification", labels),
        task,
    )


def _one_label_or_not(rng: Random, source: Source) -> Draft | None:
    task = one_task(rng, [task for task in source.labelled if len(task.metric.labels) > 2])
    if task is None:
        return None
    label = rng.choice(task.metric.labels)
    yes, no = source.yes_no(rng)
    mapping = {other: (yes if other == label else no,) for other in task.metric.labels}
    rows = [row for row in _map_labels(task, rng, mapping) if len(row[1]) == 1]
    return Draft(
        wordings(
            _TEXTS["one_label_or_not"]["frames"],
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": task_phrases(task, rng), "label": label, "yes": yes, "no": no},
        ),
        source.limit(rows),
        Metric("classification", (yes, no)),
        task,
    )


def _inverse(rng: Random, source: Source) -> Draft | None:
    task = one_task(rng, source.paired)
    if task is None:
        return None
    inputs: dict[tuple[str, bool], list[Example]] = {}
    for example in rng.sample(task.examples, len(task.examples)):
        inputs.setdefault((example.outputs[0], example.idx % 10 == 9), []).append(example)
    return Draft(
        wordings(
            _TEXTS["inverse"]["frames"],
            rng,
            count=DESCRIPTIONS_PER_TASK,
            values={"task": task_phrases(task, rng)},
        ),
        source.limit(
            [
                (answer, distinct_texts(e.input for e in examples), examples[0].idx % 10)
                for (answer, _), examples in inputs.items()
            ]
        ),
        origin=task,
    )


LABEL_FAMILIES: tuple[Family, ...] = tuple(
    Family.described(name, _TEXTS[name], make)
    for name, make in {
        "renamed_labels": _renamed_labels,
        "permuted_labels": _permuted_labels,
        "wrong_label": _wrong_label,
        "one_label_or_not": _one_label_or_not,
        "inverse": _inverse,
    }.items()
)

WORD_RENAMED_LABELS = Family.described(
    "word_renamed_labels", _TEXTS["word_renamed_labels"], _word_renamed_labels
)
"""A real task with words of the word pool for its labels; there has to be one with labels."""

WORD_REPLACED_LABELS = Family.described(
    "word_replaced_labels", _TEXTS["word_replaced_labels"], _word_replaced_labels
)
"""A real task whose descriptions name words of the word pool where its labels stood."""
