"""Baseline, the protocol of every way of answering rows, and Setup, how one row is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from text_to_lora.errors import ConfigError
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Generate = Callable[[Sequence[str]], LoraWeights]
"""One adapter for each text."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How one row is answered.

    adapter: key of its adapter: the text that made it, or the task whose adapter it is; "" where
        neither tells; None: no adapter. Rows of one key share an adapter.
    description: task description in the prompt; None: none
    shots: solved examples in the prompt, before the row's own input
    """

    adapter: str | None = None
    description: str | None = None
    shots: tuple[Example, ...] = ()


class Baseline(Protocol):
    """One way of answering rows; what T2L is compared with, and T2L itself.

    name: kind, with ".1" and so on where a kind has several; names the file of its samples

    A plug-in needs `name` and `plan`; it inherits the rest from here, or writes it as well.
    """

    name: str

    @property
    def about(self) -> Mapping[str, Any]:
        """What it is made of, as JSON values: noted in run.json, and equal when a run goes on."""
        return {}

    def plan(self, rows: Sequence[Row]) -> Sequence[Setup | None]:
        """Say how each row is answered, without making any adapter; None leaves a row out."""
        ...

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Give one adapter for each of these keys of `plan`; asked for part by part.

        Raises ConfigError when there are none.
        """
        raise ConfigError(f"condition {self.name!r} plans adapters but has none; write `adapters`")

    def on(self, base: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """The model that answers inside a `with` block; the base is left as it was."""
        return nullcontext(base)


def in_turn(rows: Sequence[Row], texts: Mapping[str, Sequence[str]]) -> list[str | None]:
    """The text of each row: rows of a task take its texts in turn; None for tasks without."""
    turns: dict[str, int] = {}
    chosen: list[str | None] = []
    for row in rows:
        own, turn = texts.get(row.task.name, ()), turns.get(row.task.name, 0)
        chosen.append(own[turn % len(own)] if own else None)
        turns[row.task.name] = turn + 1
    return chosen
