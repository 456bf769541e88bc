"""Readers of generated answers: correct ones, and beside each the reference implementation's.

Published tables were made with the reference's readers, so that a comparison with them needs those;
how far they are from correct ones is measured on the same stored samples, row by row.

Source of the `reference_*` readers: the project's digest of the reference implementation (commit
8ba7749: first character of a choice, number regex, cut at the next fence); the digest names BoolQ's
match only as flexible, its list of words is that of public derivatives of the code. Not run here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.samples import Sample
from text_to_lora.evaluation.stats import GroupBootstrap, Interval

Kind = Literal["choice", "boolean", "number", "code"]

CodeReader = Callable[[str, str, str], str]
"""(answer, question, entry point or "") -> program."""

BENCHMARKS: Mapping[str, tuple[Kind, str]] = {
    "arc_challenge": ("choice", "ABCDE"),
    "arc_easy": ("choice", "ABCDE"),
    "boolq": ("boolean", ""),
    "gsm8k": ("number", ""),
    "hellaswag": ("choice", "0123"),
    "humaneval": ("code", ""),
    "mbpp": ("code", ""),
    "openbookqa": ("choice", "ABCD"),
    "piqa": ("choice", "01"),
    "social_i_qa": ("choice", "ABC"),
    "winogrande": ("choice", "12"),
}
"""Kind of answer and options of each public benchmark, by its name or the last part of a task's."""

_OPTION = re.compile(r"^(?:Option )?\(?([A-Za-z]|\d)(?:\)|:|\.)[ \t]*(\S.*)$", re.MULTILINE)
_STATED = (
    r"\banswer\b[*_]*(?:\s+(?:is|would be|should be|must be)\b|\s*[:=])+[\s*_`\"'(\[]*"
    r"(?:option\s+|choice\s+)?\(?"
)
_DIGITS = re.compile(r"(?<![\w.])(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?!\d)")
_SIGN = re.compile(r"(?<![\w)\]])(?<![\d)\]]\s)-\s?[$€£]?$|(?<!\w)[$€£]-$")
_MOST_PROSE = 200  # lines after the code
_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_CODE_STARTS = re.compile(r"^(?:def |class |import |from |async |@)", re.MULTILINE)


# Correct readers


def read_choice(answer: str, options: Sequence[str], question: str = "") -> str | None:
    """Give the option that an answer chooses; None where it chooses none or several.

    options: marks such as "A", "(B)" or "1"; the question's own list of options adds to them

    In this order: the answer is a mark; it begins with one ("B: ...", "(B) ..."); it states one
    ("the answer is B", the last such counts); one mark alone stands in it; it has one option's text.
    """
    listed = {mark: text for mark, text in _OPTION.findall(question)}
    marks = {_core(option): option for option in options}
    if {mark.casefold() for mark in listed} >= marks.keys():
        marks = {mark.casefold(): marks.get(mark.casefold(), mark) for mark in listed}
    one = "|".join(map(re.escape, marks))
    if _core(answer) in marks:
        return marks[_core(answer)]
    begins = re.match(rf"\W*(?:option\s+)?({one})\)?\s*(?:[).:,*\n]|-\s)", answer, re.IGNORECASE)
    if begins:
        return marks[begins[1].casefold()]
    stated = re.findall(
        rf"{_STATED}({one})\b(?!(?-i:(?<=a)\s+[a-z]))", answer, re.IGNORECASE
    )  # "a" before a word is an article, "A" before a word may be the option
    if stated:
        return marks[stated[-1].casefold()]
    alone = _one_of(_standing_alone(answer, marks))
    if alone is not None:
        return marks[alone]
    said = normalise(answer)
    texts = {mark.casefold(): normalise(text) for mark, text in listed.items()}
    found = [m for m, t in texts.items() if t and re.search(rf"\b{re.escape(t)}(?!\w)", said)]
    longest = [m for m in found if not any(texts[m] in texts[n] for n in found if n != m)]
    chosen = _one_of(longest)
    return None if chosen is None else marks.get(chosen)


def read_boolean(answer: str) -> bool | None:
    """Give the truth value of an answer; None where it gives none or both.

    What "the answer is ..." states counts first, then the first word, then what all of it says.
    "No" counts as an answer, not before a noun; "not true" is false.
    """
    text = answer.casefold()
    word = r"(?:\bnot\s+|n't\s+|\b)(?:true\b|false\b|yes\b|no\b(?=\s*(?:[^\w\s]|\n|$)))"
    stated = re.findall(rf"{_STATED}({word})", text)
    if stated:
        return _truth(stated[-1])
    begins = re.match(rf"\W*({word})(?!\s+or\b)", text)
    if begins:
        return _truth(begins[1])
    values = {_truth(found) for found in re.findall(word, text)}
    return values.pop() if len(values) == 1 else None


def read_number(answer: str) -> float | None:
    r"""Give the final number of an answer: after "####", in \boxed{}, stated as the answer, or last.

    A minus is a sign unless a number, a bracket or, without a space, a word stands before it; commas
    part thousands; a currency's sign may stand on either side of the minus.
    """
    _, mark, after = answer.partition("####")
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", answer)
    for text in ([after] if mark else []) + boxed[-1:]:
        if numbers := _numbers(text):
            return numbers[0]
    stated = re.split(_STATED, answer, flags=re.IGNORECASE)[1:]
    for text in reversed(stated):
        if re.match(r"[-−$€£ ]*\.?\d", text):
            return _numbers(text)[0]
    numbers = _numbers(answer)
    return numbers[-1] if numbers else None


def read_code(answer: str, question: str, entry_point: str = "") -> str:
    """Give the program of an answer: its fenced block, or the answer itself.

    entry_point: name of the function whose beginning is the question's fenced block; an answer that
        defines it stands after that beginning (which may hold imports and helpers), any other one
        goes on where it ends
    """
    code = _fenced_code(answer, entry_point)
    prompt = _fenced_code(question, entry_point) if entry_point else ""
    if not _defines(prompt, entry_point):
        return _without_prose(code)
    if _defines(code, entry_point):
        return _without_prose(f"{prompt.rstrip()}\n    pass\n\n\n{code}")
    return _without_prose(_go_on(prompt, code))


# The reference implementation's readers


def reference_choice(answer: str) -> str | None:
    """Give the first letter or digit of an answer, when it stands first; None else.

    "Answer: B" is read as "a".
    """
    text = answer.strip().strip(":`'\"(.) ").lower()
    return text[0] if text and re.match(r"[a-z0-9]", text) else None


def reference_boolean(answer: str) -> bool | None:
    """Give the value of the first of a list of words that is anywhere in an answer.

    In the list's order, not the answer's, and inside of words too: "I know it is true" has "no".
    """
    text = answer.lower()
    return next((value for word, value in _REFERENCE_WORDS if word in text), None)


_REFERENCE_WORDS = (
    ("1", True),
    ("0", False),
    ("yes", True),
    ("no", False),
    ("true", True),
    ("false", False),
    ("positive", True),
    ("negative", False),
    ("valid", True),
    ("invalid", False),
)


def reference_number(answer: str) -> float | None:
    r"""Give the last match of `\d*\.?\d+`: "1,200" is read as 200, "-5" as 5."""
    numbers = re.findall(r"\d*\.?\d+", answer)
    return float(numbers[-1]) if numbers else None


def reference_code(answer: str, question: str, entry_point: str = "") -> str:
    """Give the answer up to its first fence, after the question's code when there is a function.

    The reference begins the answer itself with an opening fence (and the function's beginning), so
    that an answer that opens a fence of its own is read as empty.
    """
    code = answer.split("```")[0]
    prompt = _fenced_code(question, entry_point) if entry_point else ""
    return _go_on(prompt, code) if _defines(prompt, entry_point) else code


# Scores of stored samples


@dataclass(frozen=True, slots=True)
class Reading:
    """One sample under both readers.

    metric: the score that the sample has, by its task's metric
    correct, reference: whether each reader's answer is right, 0 or 1
    unread: whether the correct reader finds no answer
    """

    sample: Sample
    kind: Kind
    metric: float
    correct: float
    reference: float
    unread: bool


def kind_of(task: str, metric: str, labels: Sequence[str]) -> Kind | None:
    """Tell how the answers of a task are read; None where there is no reader beside its metric."""
    name = task.rpartition(".")[2]
    if name in BENCHMARKS and metric in ("classification", "final_number", "code_execution"):
        return BENCHMARKS[name][0]
    if metric in ("final_number", "code_execution"):
        return "number" if metric == "final_number" else "code"
    if metric != "classification" or not labels:
        return None
    if all(len(_core(label)) == 1 for label in labels):
        return "choice"
    booleans = all(label.casefold() in ("true", "false", "yes", "no") for label in labels)
    return "boolean" if booleans else None


def read_samples_twice(
    samples: Iterable[Sample],
    labels: Mapping[str, Sequence[str]],
    reference_grade: Callable[[Sample], float] | None = None,
) -> list[Reading]:
    """Score stored samples with both readers; those without a score or a reader are left out.

    labels: label set of each task; run.json of an evaluation has them
    reference_grade: scores a sample of code as read by `reference_code`; without it samples of code
        are left out. The correct reader's score of code is the sample's own.
    """
    readings = []
    for sample in samples:
        kind = kind_of(sample.task, sample.metric, labels.get(sample.task, ()))
        if kind is None or sample.score is None or (kind == "code" and reference_grade is None):
            continue
        if kind == "code":
            assert reference_grade is not None
            unread, correct = not sample.answer.strip(), sample.score
            reference = reference_grade(sample)
        else:
            found = _read(kind, sample, labels.get(sample.task, ()))
            gold = [_gold(kind, output) for output in sample.outputs]
            unread, correct = found is None, float(found is not None and found in gold)
            reference = _reference_score(kind, sample)
        readings.append(Reading(sample, kind, sample.score, correct, reference, unread))
    return readings


def compare_readers(readings: Sequence[Reading], *, seed: int = 0) -> dict[str, Any]:
    """Give per task and overall what each reader makes of the same answers, as JSON values.

    Per task: rows, the means and their paired difference (correct minus reference) with its 95%
    interval over rows; overall: over source groups, as everywhere.
    """
    by_task: dict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        by_task[reading.sample.task].append(reading)
    tasks: dict[str, dict[str, Any]] = {}
    for task, members in sorted(by_task.items()):
        tasks[task] = {
            "kind": members[0].kind,
            "rows": len(members),
            "unread": _mean([reading.unread for reading in members]),
            **{name: _mean([getattr(r, name) for r in members]) for name in _SCORES},
            "difference": _ends(over_rows([r.correct - r.reference for r in members], seed=seed)),
        }
    groups = {task: members[0].sample.group for task, members in by_task.items()}
    overall: dict[str, Any] = {}
    if tasks:
        bootstrap = GroupBootstrap(groups, seed=seed)
        for name in _SCORES:
            values = {task: entry[name] for task, entry in tasks.items()}
            overall[name] = _ends(bootstrap.mean(values))
        differences = {task: e["correct"] - e["reference"] for task, e in tasks.items()}
        overall["difference"] = _ends(bootstrap.mean(differences))
    return {"tasks": tasks, "overall": overall}


_SCORES = ("metric", "correct", "reference")


def over_rows(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean of a value per row and its 95% bootstrap interval over rows."""
    rows = {f"{place:06}": value for place, value in enumerate(values)}
    return GroupBootstrap({name: name for name in rows}, seed=seed).mean(rows)


def _read(kind: Kind, sample: Sample, labels: Sequence[str]) -> str | float | bool | None:
    if kind == "choice":
        found = read_choice(sample.answer, labels or sample.outputs, sample.input)
        return None if found is None else _core(found)
    return read_number(sample.answer) if kind == "number" else read_boolean(sample.answer)


def _gold(kind: Kind, output: str) -> str | float | bool | None:
    if kind == "choice":
        return _core(output)
    return read_number(output) if kind == "number" else read_boolean(output)


def _reference_score(kind: Kind, sample: Sample) -> float:
    """Score with the reference's reader of both the answer and the first output.

    A gold number is cut to a whole one there; no answer is right only where the gold has none.
    """
    answer, gold = sample.answer, sample.outputs[0]
    if kind == "choice":
        return float(reference_choice(answer) == reference_choice(gold))
    if kind == "boolean":
        said = reference_boolean(answer)
        return float(said is not None and said == reference_boolean(gold))
    number, right = reference_number(answer), reference_number(gold)
    return float(number is not None and right is not None and number == int(right))


def _core(mark: str) -> str:
    """A mark without what stands around it: "(B)." and "b" are the same."""
    return re.sub(r"^[\W_]+|[\W_]+$", "", mark).removeprefix("Option ").casefold()


def _standing_alone(answer: str, marks: Iterable[str]) -> list[str]:
    """Marks that stand in an answer as words: capitals, digits, or anything in brackets."""
    found = []
    for mark in marks:
        bare = re.escape(mark.upper())
        words = rf"(?<![\w']){bare}(?![\w'])"
        if mark.isdigit():
            words = rf"(?<![\w.,]){bare}(?!\w|[.,]\d)"
        elif mark in _ENGLISH:
            words = rf"{words}(?!{_ENGLISH[mark]})"
        if re.search(rf"{words}|\((?i:{re.escape(mark)})\)", answer):
            found.append(mark)
    return found


# What follows "A" and "I" where they are words of English: "A dog", "I think".
_ENGLISH = {"a": r"\s+(?!(?:or|and|is|was|because|since|as)\b)[a-z]", "i": r"\s+[a-z]"}


def _truth(word: str) -> bool:
    negated = word.startswith(("not", "n't"))
    return word.endswith(("true", "yes")) != negated


def _numbers(text: str) -> list[float]:
    text = text.replace("−", "-")
    numbers = []
    for found in _DIGITS.finditer(text):
        negative = _SIGN.search(text[max(0, found.start() - 8) : found.start()])
        number = float(found[0].replace(",", ""))
        numbers.append(-number if negative else number)
    return numbers


def _fenced_code(text: str, entry_point: str = "") -> str:
    """The code of a text: the first fenced block with a definition (of the entry point, if any)."""
    fences = list(_FENCE.finditer(text))
    if not fences:
        first = _CODE_STARTS.search(text)
        whole = not entry_point or _defines(text, entry_point)
        return text[first.start() if first and whole else 0 :]
    if len(fences) == 1 and fences[0][0].strip() == "```" and text[: fences[0].start()].strip():
        return text[: fences[0].start()]  # a block that the prompt has opened
    blocks = []
    for place in range(0, len(fences), 2):
        end = fences[place + 1].start() if place + 1 < len(fences) else len(text)
        blocks.append(text[fences[place].end() : end].strip("\n"))
    defining = [block for block in blocks if entry_point and _defines(block, entry_point)]
    return (defining or [block for block in blocks if _CODE_STARTS.search(block)] or blocks)[0]


def _without_prose(code: str) -> str:
    """Cut lines from the end until the rest is Python; all of it where nothing is."""
    lines = code.splitlines()
    for end in range(len(lines), max(0, len(lines) - _MOST_PROSE), -1):
        kept = "\n".join(lines[:end])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # escapes that Python will forbid one day
                ast.parse(kept)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return kept
    return code


def _defines(code: str, name: str) -> bool:
    return bool(re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE))


def _go_on(prompt: str, code: str) -> str:
    """A function's beginning and its body; stored answers have lost the first line's indent."""
    body = code.lstrip("\n")
    indent = "" if body.startswith((" ", "\t")) else "    "
    return f"{prompt.rstrip()}\n{indent}{body}"


def _one_of(found: Sequence[str]) -> str | None:
    return found[0] if len(found) == 1 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
