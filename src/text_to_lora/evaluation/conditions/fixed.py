"""One adapter for all tasks: trained on all of them, or the mean of a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

from text_to_lora.evaluation.conditions.condition import Condition, Setup, Sources
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row


@final
class Mean(Condition):
    """The mean of a library's adapters, factor by factor: the paper's average LoRA."""

    kind = "mean"
    title = "the mean of a library of adapters"
    needs = "a library of adapters; give --library (Sources.library)"

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        return None if sources.library is None else [cls(sources.library)]

    @property
    def about(self) -> Mapping[str, Any]:
        """The library and its size."""
        return {"library": self._library.fingerprint, "adapters": len(self._library)}

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The same adapter for every row."""
        return [Setup(adapter="") for _ in rows]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The mean."""
        return self._library.mean()


class _OneAdapter(Condition):
    """What is answered with one given adapter.

    weights: that adapter
    """

    def __init__(self, weights: LoraWeights) -> None:
        self._weights = weights

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The adapter."""
        return self._weights


@final
class Multitask(_OneAdapter):
    """One adapter that was trained on all training tasks together."""

    kind = "multitask"
    primary = True
    title = "one adapter trained on all training tasks"
    needs = "a multi-task adapter; give --multitask (Sources.multitask)"

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        return None if sources.multitask is None else [cls(sources.multitask)]

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The same adapter for every row."""
        return [Setup(adapter="") for _ in rows]


@final
class MultitaskInPrompt(_OneAdapter):
    """One adapter that was trained on all training tasks with their descriptions in the prompt.

    It is what one would use instead of a hypernetwork when prompt tokens cost nothing.
    """

    kind = "multitask_in_prompt"
    title = (
        "one adapter trained on all training tasks with their description in the prompt, used so"
    )
    needs = (
        "a multi-task adapter that was trained with descriptions in the prompt; "
        "give --multitask-in-prompt (Sources.multitask_in_prompt)"
    )

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        return None if sources.multitask_in_prompt is None else [cls(sources.multitask_in_prompt)]

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The same adapter for every row, and the task's definition in the prompt."""
        return [Setup(adapter="", description=row.task.definition) for row in rows]
