"""A task: descriptions of it in words, examples of it, and the metric that scores an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from text_to_lora.errors import ConfigError
from text_to_lora.tasks.texts import distinct_texts, normalize_answer

MetricKind = Literal[
    "classification", "exact_match", "rougeL", "final_number", "code_execution", "rule"
]
METRIC_KINDS: tuple[str, ...] = get_args(MetricKind)[:-1]
"""The kinds that task folders can name; rules are code."""


@dataclass(frozen=True, slots=True)
class Example:
    """One input and every answer that counts as right.

    idx: place of the example in its task; its last digit decides what the example is for
    """

    input: str
    outputs: tuple[str, ...]
    idx: int

    def __post_init__(self) -> None:
        if not self.outputs or not all(map(str.strip, self.outputs)):
            raise ConfigError(
                f"example {self.idx} has outputs {self.outputs!r}; give one or more non-empty texts"
            )


@dataclass(frozen=True)
class Metric:
    """How an answer is scored.

    labels: label set of a classification task; rule: name of the rule of a metric of kind "rule"
    """

    kind: MetricKind
    labels: tuple[str, ...] = ()
    rule: str = ""

    def __post_init__(self) -> None:
        if self.kind not in (*METRIC_KINDS, "rule"):
            raise ConfigError(
                f"unknown metric kind {self.kind!r}; choose one of {', '.join(METRIC_KINDS)}"
            )
        if self.kind == "classification" and not self.labels:
            raise ConfigError("a classification metric has no labels; list them in 'labels'")
        if twice := [label for label in self.labels if self.labels.count(label) > 1]:
            raise ConfigError(f"label {twice[0]!r} stands in 'labels' twice; list each label once")

    def has_label(self, outputs: Iterable[str]) -> bool:
        """Whether one of these outputs is a label, as answers are compared."""
        labels = set(map(normalize_answer, self.labels))
        return any(normalize_answer(output) in labels for output in outputs)


@dataclass(frozen=True)
class Task:
    """What is learned: a named set of examples with descriptions and a metric.

    definition: the full wording, always the first of `descriptions`
    group: the data set that the examples come from; tasks of one group are not independent
    split: the part of the data that the task belongs to; only "train" is for training

    Raises ConfigError when the task has no description or no example.
    """

    name: str
    definition: str
    descriptions: tuple[str, ...]
    examples: tuple[Example, ...]
    metric: Metric
    license: str = ""
    source: str = ""
    group: str = ""
    category: str = ""
    split: str = "train"

    def __post_init__(self) -> None:
        texts = distinct_texts((self.definition, *self.descriptions))
        if not texts:
            raise ConfigError(f"task {self.name!r} has no description; give at least one sentence")
        if not self.examples:
            raise ConfigError(f"task {self.name!r} has no examples; give at least one")
        object.__setattr__(self, "definition", texts[0])
        object.__setattr__(self, "descriptions", texts)

    @classmethod
    def from_rows(
        cls,
        name: str,
        rows: Iterable[Mapping[str, Any] | tuple[str, str]],
        descriptions: Iterable[str] = (),
        *,
        input: str = "input",
        output: str | Sequence[str] = "output",
        labels: Mapping[Any, str] | None = None,
        metric: MetricKind | None = None,
        group: str = "",
    ) -> Task:
        """Make a task of rows: mappings by column, or pairs of input and answer.

        descriptions: a plain one is made of columns and labels where there are none
        input, output: the name of a column, or a template such as "{premise} {hypothesis}"; every
            text of an output that is a list counts as right, and so does every one of several outputs
        labels: the label by the value that stands in the rows
        metric: kind of metric; guessed by default
        group: the data set that the rows come from; `name` by default

        Raises ConfigError and TaskDataError when a column is missing or no row can be used; warns
        (T2LWarning) of rows that are left out.
        """
        from text_to_lora.tasks.importing.sources import make_settings, task_from_rows

        settings = make_settings(input, output, labels, descriptions, metric, group)
        return task_from_rows(name, rows, *settings)

    @classmethod
    def from_dataset(
        cls,
        name: str,
        dataset: Any,
        descriptions: Iterable[str] = (),
        *,
        input: str = "input",
        output: str | Sequence[str] = "output",
        labels: Mapping[Any, str] | None = None,
        metric: MetricKind | None = None,
        group: str = "",
        split: str = "train",
    ) -> Task:
        """Make a task of a data set of Hugging Face's `datasets`; numbers become their labels' names.

        dataset: one that is loaded, or its folder or its name on the hub
        split: of a data set that is named; the rest as in `from_rows`

        Raises ConfigError and TaskDataError as `from_rows`, and when the data set cannot be loaded.
        """
        from text_to_lora.tasks.importing.sources import make_settings, task_from_dataset

        settings = make_settings(input, output, labels, descriptions, metric, group)
        return task_from_dataset(name, dataset, *settings, split)

    def training(self) -> tuple[Example, ...]:
        """Give the examples that may be trained on: idx % 10 is not 9."""
        return tuple(example for example in self.examples if example.idx % 10 != 9)

    def validation(self) -> tuple[Example, ...]:
        """Give the examples of a training task that are held out: idx % 10 is 9."""
        return tuple(example for example in self.examples if example.idx % 10 == 9)

    def support(self) -> tuple[Example, ...]:
        """Give the examples of a held-out task for oracle adapters and shots: idx % 10 < 5."""
        return tuple(example for example in self.examples if example.idx % 10 < 5)

    def scored(self) -> tuple[Example, ...]:
        """Give the examples of a held-out task that scores are measured on: idx % 10 >= 5."""
        return tuple(example for example in self.examples if example.idx % 10 >= 5)


@dataclass(frozen=True, slots=True)
class Row:
    """One example of one task."""

    task: Task
    example: Example
