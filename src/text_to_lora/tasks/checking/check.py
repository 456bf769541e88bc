"""The check of tasks: figures of each task, and findings in sentences, the gravest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, Final

from text_to_lora.errors import ConfigError, list_some
from text_to_lora.tasks.checking.held_out import HeldOutOverlap, find_held_out
from text_to_lora.tasks.checking.inputs import count_shared, guess_tasks
from text_to_lora.tasks.prompts import PromptFormat
from text_to_lora.tasks.task import Example, Task
from text_to_lora.tasks.texts import plain_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEW_ROWS: Final = 50
FEW_DESCRIPTIONS: Final = 4
FEW_GROUPS: Final = 16
_MUCH: Final = 0.05  # share of rows that are cut
_ONE_SIDED: Final = 0.9  # share of one label
_GUESSED: Final = 0.8  # share of inputs whose task is guessed
_TEXTS_AT_ONCE: Final = 512


@dataclass(frozen=True)
class Lengths:
    """Tokens of texts, and the share of texts that a limit cuts."""

    median: int
    most: int
    limit: int
    cut: float

    @classmethod
    def of(cls, counts: Sequence[int], limit: int) -> Lengths:
        """Sum up the tokens of one text or more."""
        ordered = sorted(counts)
        cut = sum(count > limit for count in ordered) / len(ordered)
        return cls(ordered[len(ordered) // 2], ordered[-1], limit, cut)


@dataclass(frozen=True)
class Measure:
    """How lengths are measured: in tokens of a base, under the limits of a run.

    rows: most rows of a task that are measured, drawn by its name; None for all
    """

    tokenizer: PreTrainedTokenizerBase
    max_prompt_tokens: int
    max_answer_tokens: int
    max_description_tokens: int
    rows: int | None = None

    def lengths(self, task: Task) -> tuple[Lengths, Lengths, Lengths]:
        """Lengths of prompts (with the chat template, without a description), answers, descriptions."""
        form = self._form
        count = min(self.rows or len(task.examples), len(task.examples))
        rows = Random(task.name).sample(task.examples, count)
        frame = form.bare
        return (
            Lengths.of(self._count(form.prompt(r.input) for r in rows), self.max_prompt_tokens),
            Lengths.of(
                self._count(frame.lead + r.outputs[0].strip() + frame.end for r in rows),
                self.max_answer_tokens,
            ),
            Lengths.of(self._count(task.descriptions), self.max_description_tokens),
        )

    @cached_property
    def _form(self) -> PromptFormat:
        return PromptFormat.for_tokenizer(self.tokenizer)

    def _count(self, texts: Iterable[str]) -> list[int]:
        listed, counts = list(texts), []
        for start in range(0, len(listed), _TEXTS_AT_ONCE):
            part = listed[start : start + _TEXTS_AT_ONCE]
            encoded = self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            counts += [len(ids) for ids in encoded]
        return counts


@dataclass(frozen=True)
class TaskCheck:
    """Figures of one task.

    labels: rows of each label; no_label: rows whose answers are none; contradicted: inputs with
    several answers; answer_in_input: share of rows whose answer stands in the input; shared: rows whose
    input another task has; guessed: share of inputs whose task is guessed right, None unmeasured
    held_out: rows that evaluation sets have, None where none are given
    """

    name: str
    group: str
    rows: int
    descriptions: int
    metric: str
    labels: dict[str, int]
    no_label: int
    contradicted: int
    answer_in_input: float
    shared: int
    guessed: float | None
    held_out: int | None
    prompt_tokens: Lengths | None
    answer_tokens: Lengths | None
    description_tokens: Lengths | None


@dataclass(frozen=True)
class Report:
    """The check of several tasks.

    guessed: share of all inputs whose task is guessed right, of which `chance` by luck
    held_out: what each task shares with evaluation sets
    """

    tasks: tuple[TaskCheck, ...]
    groups: dict[str, int]
    guessed: float | None
    chance: float
    findings: tuple[str, ...]
    held_out: dict[str, HeldOutOverlap]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        payload = asdict(self)
        payload["held_out"] = {
            name: {key: sorted(value) for key, value in asdict(entry).items()}
            for name, entry in self.held_out.items()
        }
        return payload


def check_tasks(
    tasks: Sequence[Task],
    measure: Measure | None = None,
    held_out: Sequence[Task] = (),
    report: Callable[[str], None] = lambda words: None,
) -> Report:
    """Check tasks before training.

    measure: how lengths are measured; None to leave them out
    held_out: tasks of evaluation sets that training must not repeat
    report: gets words about the progress
    """
    report("inputs that tasks share")
    shared, pairs = count_shared(tasks)
    report("guessing tasks by their inputs")
    guesses = _guess(tasks)
    report("evaluation sets")
    overlaps = find_held_out(tasks, held_out) if held_out else {}
    checks = []
    for place, task in enumerate(tasks):
        report(f"task {place + 1} of {len(tasks)}")
        overlap = overlaps.get(task.name, HeldOutOverlap())
        checks.append(
            _check(
                task,
                shared[place],
                None if guesses is None else guesses[place],
                len(overlap.rows) if held_out else None,
                (None, None, None) if measure is None else measure.lengths(task),
            )
        )
    apart = [
        f"{tasks[a].name!r} and {tasks[b].name!r} ({count})"
        for (a, b), count in pairs.most_common()
        if tasks[a].group != tasks[b].group
    ]
    share = sum(guesses) / len(guesses) if guesses else None
    groups = dict(Counter(task.group for task in tasks).most_common())
    findings = _find(checks, overlaps, apart, share, groups)
    return Report(tuple(checks), groups, share, 1 / len(tasks), tuple(findings), overlaps)


def _guess(tasks: Sequence[Task]) -> list[float] | None:
    if len(tasks) < 2:
        return None
    try:
        return guess_tasks(tasks)
    except ConfigError:  # scikit-learn is missing; a finding says so
        return None


def _check(
    task: Task,
    shared: int,
    guessed: float | None,
    held_out: int | None,
    lengths: tuple[Lengths | None, Lengths | None, Lengths | None],
) -> TaskCheck:
    labels = task.metric.labels
    answers: dict[str, set[tuple[str, ...]]] = {}
    for row in task.examples:
        answers.setdefault(row.input.strip(), set()).add(row.outputs)
    counts = Counter(row.outputs[0] for row in task.examples)
    return TaskCheck(
        name=task.name,
        group=task.group,
        rows=len(task.examples),
        descriptions=len(task.descriptions),
        metric=task.metric.kind,
        labels={label: counts[label] for label in labels},
        no_label=sum(not task.metric.has_label(r.outputs) for r in task.examples) if labels else 0,
        contradicted=sum(len(outputs) > 1 for outputs in answers.values()),
        answer_in_input=sum(map(_has_answer, task.examples)) / len(task.examples),
        shared=shared,
        guessed=guessed,
        held_out=held_out,
        prompt_tokens=lengths[0],
        answer_tokens=lengths[1],
        description_tokens=lengths[2],
    )


def _has_answer(row: Example) -> bool:
    answer = plain_words(row.outputs[0])
    return bool(answer) and f" {answer} " in f" {plain_words(row.input)} "


def _find_repetitions(overlaps: Mapping[str, HeldOutOverlap], apart: Sequence[str]) -> list[str]:
    """What repeats evaluation sets, or other tasks, with the next step."""
    lines = []
    if overlaps:
        equal = sum(len(entry.equal) for entry in overlaps.values())
        similar = sum(len(entry.similar) for entry in overlaps.values())
        lines.append(
            f"{len(overlaps)} tasks repeat evaluation sets, in {equal:,} equal inputs and {similar:,} "
            f"with a rare run of ten words: {list_some(overlaps)}; --drop-overlap writes a copy without"
        )
    if apart:
        lines.append(
            f"{len(apart)} pairs of tasks in different groups share inputs, so that validation is not "
            f"on new ones: {list_some(apart)}; give them one group"
        )
    return lines


def _find(
    checks: Sequence[TaskCheck],
    overlaps: dict[str, HeldOutOverlap],
    apart: Sequence[str],
    guessed: float | None,
    groups: dict[str, int],
) -> list[str]:
    """What to look at before training, each with the next step."""

    def tasks_where(is_so: Callable[[TaskCheck], bool], sentence: str) -> list[str]:
        names = [check.name for check in checks if is_so(check)]
        return (
            [f"{len(names)} of {len(checks)} tasks {sentence}: {list_some(names)}"] if names else []
        )

    def cut(lengths: str, sentence: str) -> list[str]:
        return tasks_where(
            lambda c: (x := getattr(c, lengths)) is not None and x.cut > _MUCH, sentence
        )

    lines = _find_repetitions(overlaps, apart)
    if guessed is not None and guessed > _GUESSED:
        lines.append(
            f"the input alone tells the task in {guessed:.0%} of a sample (by chance "
            f"{1 / len(checks):.0%}), so that a network need not read descriptions; keep synthetic "
            "families (data.family_share 0.3 or more), or add tasks over the same inputs"
        )
    if guessed is None and len(checks) > 1:
        lines.append("whether inputs tell the task was not measured; pip install scikit-learn")
    lines += tasks_where(
        lambda c: c.no_label > 0, "have rows whose answers are none of their labels"
    )
    lines += tasks_where(lambda c: c.contradicted > 0, "have inputs with several answers")
    lines += cut("prompt_tokens", "lose the left of more than 5% of their inputs to the limit")
    lines += cut("answer_tokens", "lose the right of more than 5% of their answers to the limit")
    lines += cut("description_tokens", "have descriptions that a prompt would cut")
    lines += tasks_where(
        lambda c: bool(c.labels) and max(c.labels.values()) > _ONE_SIDED * c.rows,
        "have one label in more than 90% of their rows",
    )
    lines += tasks_where(lambda c: c.rows < FEW_ROWS, f"have fewer than {FEW_ROWS} rows")
    lines += tasks_where(
        lambda c: c.descriptions < FEW_DESCRIPTIONS,
        f"have fewer than {FEW_DESCRIPTIONS} descriptions, which `t2l tasks describe` writes",
    )
    if len(groups) < FEW_GROUPS:
        lines.append(
            f"{len(groups)} groups: one in data.validation_one_in (16) is set aside whole, so that few "
            "or none may be left to validate unseen tasks on; lower it, or add data sets"
        )
    return lines
