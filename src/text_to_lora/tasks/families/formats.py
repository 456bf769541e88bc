"""Families that ask for the right answer in another form, of a real task or of a chosen word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random

from text_to_lora.tasks.families.family import DESCRIPTIONS_PER_TASK, Draft, Family
from text_to_lora.tasks.families.source import (
    MAX_INPUT_WORDS,
    Source,
    one_task,
    pick_rows,
    task_phrases,
)
from text_to_lora.tasks.families.text import (
    SIGNS,
    Parameters,
    Values,
    longest,
    no_parameters,
    one_sign,
    one_word,
)
from text_to_lora.tasks.families.texts import load_texts
from text_to_lora.tasks.families.wordings import FRAMES, wordings
from text_to_lora.tasks.task import distinct_texts

_TEXTS = load_texts("formats")

_SELECTIONS: tuple[tuple[Sequence[str], Callable[[Sequence[str]], str | None]], ...] = (
    (load_texts("text")["first_word"]["phrases"], lambda words: words[0]),
    (load_texts("text")["last_word"]["phrases"], lambda words: words[-1]),
    (load_texts("text")["longest_word"]["phrases"], longest),
    (("second word", "word number two", "word in place 2"), lambda words: words[1]),
)


def _format(
    name: str, apply: Callable[[str, Values], str], parameters: Parameters = no_parameters
) -> Family:
    phrases = _TEXTS[name]["phrases"]

    def make(rng: Random, source: Source) -> Draft | None:
        values = parameters(rng, source)
        task = one_task(rng, source.answered) if rng.random() < 0.6 else None
        if task is None:
            nouns, choose_word = rng.choice(_SELECTIONS)
            questions = wordings(FRAMES["noun"], rng, count=32, phrases={"np": nouns})
            sentences = [text if text[-1] in ".!?" else f"{text}." for text in questions]
            rows = pick_rows(rng, source, lambda text: choose_word(text.words))
        else:
            sentences = task_phrases(task, rng)
            rows = [
                (example.input, example.outputs, example.idx % 10)
                for example in rng.sample(task.examples, len(task.examples))
                if len(example.input.split()) <= MAX_INPUT_WORDS
                and all(len(output.split()) <= 4 for output in example.outputs)
            ]
        rows = source.limit(rows)
        styled = [
            (text, distinct_texts(apply(output, values) for output in outputs), digit)
            for text, outputs, digit in rows
        ]
        changed = sum(old[1] != new[1] for old, new in zip(rows, styled, strict=True))
        if changed < len(rows) / 2:
            return None
        return Draft(
            wordings(
                FRAMES["style"],
                rng,
                count=DESCRIPTIONS_PER_TASK,
                phrases={"style": phrases},
                values={**values, "task": sentences},
            ),
            styled,
            origin=task,
        )

    return Family.described(name, _TEXTS[name], make)


FORMAT_FAMILIES: tuple[Family, ...] = (
    _format("answer_in_capitals", lambda answer, v: answer.upper()),
    _format("answer_in_small_letters", lambda answer, v: answer.lower()),
    _format(
        "answer_as_json",
        lambda answer, v: json.dumps({v["key"]: answer}, ensure_ascii=False),
        lambda rng, source: {
            "key": rng.choice(("answer", "result", "output", "label", source.word(rng)))
        },
    ),
    _format(
        "answer_quoted", lambda answer, v: f"{SIGNS[v['name']]}{answer}{SIGNS[v['name']]}", one_sign
    ),
    _format("answer_in_brackets", lambda answer, v: f"[{answer}]"),
    _format("answer_with_prefix", lambda answer, v: f"{v['word']}: {answer}", one_word),
    _format("answer_with_suffix", lambda answer, v: f"{answer} {v['word']}", one_word),
    _format(
        "answer_numbered",
        lambda answer, v: f"{v['n']}. {answer}",
        lambda rng, source: {"n": str(rng.randint(1, 9))},
    ),
    _format("answer_twice", lambda answer, v: f"{answer}{SIGNS[v['name']]}{answer}", one_sign),
    _format("answer_first_letter", lambda answer, v: answer[0]),
    _format("answer_spelled", lambda answer, v: SIGNS[v["name"]].join(answer), one_sign),
)
