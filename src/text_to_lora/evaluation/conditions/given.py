"""Adapters that are there already: one for all tasks, or of a library the task's own or the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions.condition import (
    Condition,
    Encode,
    Setup,
    Sources,
    warn_of_cuts_once,
)
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row

NEEDS_LIBRARY = "a library of adapters; give --library (Sources.library)"
DESCRIPTIONS = 4
ENCODED_AT_ONCE = 128  # descriptions


class _OneAdapter(Condition):
    """What is answered with one adapter for all tasks.

    weights: that adapter
    """

    def __init__(self, weights: LoraWeights) -> None:
        self._weights = weights

    def key(self, row: Row) -> str:
        """All rows share the adapter."""
        return ""

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The adapter."""
        return self._weights


@final
class Multitask(_OneAdapter):
    """One adapter that was trained on all training tasks together."""

    kind = "multitask"
    primary = True
    title = "one adapter trained on all training tasks"
    sources = ("multitask",)
    needs = "a multi-task adapter; give --multitask (Sources.multitask)"


@final
class MultitaskInPrompt(_OneAdapter):
    """One adapter that was trained on all training tasks with their descriptions in the prompt.

    It is what one would use instead of a hypernetwork when prompt tokens cost nothing.
    """

    kind = "multitask_in_prompt"
    title = (
        "one adapter trained on all training tasks with their description in the prompt, used so"
    )
    in_prompt = True
    sources = ("multitask_in_prompt",)
    needs = (
        "a multi-task adapter that was trained with descriptions in the prompt; "
        "give --multitask-in-prompt (Sources.multitask_in_prompt)"
    )


class _OfLibrary(Condition):
    """What is answered with adapters of a library, by the names of their tasks."""

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    @property
    def about(self) -> Mapping[str, Any]:
        """The library and its size."""
        return {"library": self._library.fingerprint, "adapters": len(self._library)}

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Adapters of the library by task."""
        return self._library.select(keys).weights


@final
class Mean(_OfLibrary):
    """The mean of a library's adapters, factor by factor: the paper's average LoRA."""

    kind = "mean"
    title = "the mean of a library of adapters"
    sources = ("library",)
    needs = NEEDS_LIBRARY

    def key(self, row: Row) -> str:
        """All rows share the mean."""
        return ""

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """The mean."""
        return self._library.mean()


@final
class Retrieval(_OfLibrary):
    """The library's adapter whose task is described most like this one.

    encode: embeds descriptions, as the hypernetwork's own text encoder does
    encoder: what it is called, to be noted
    descriptions: of each library task that are compared with, from its first; some tasks have
        hundreds, and embedding them costs more than the answers

    The definition is compared by cosine, and the nearest single description decides: a task is
    found by whichever of its wordings is like the one that is asked, which a mean would blur. Of
    equal ones the first in the library is taken. A task that is in the library itself finds its own
    adapter, as it would in use.

    Raises ConfigError when no task of the library has a description.
    """

    kind = "retrieval"
    title = "the library's adapter of the nearest description"
    sources = ("library", "encode")
    needs = f"{NEEDS_LIBRARY} and an encoder (Sources.encode)"

    def __init__(
        self,
        library: AdapterLibrary,
        encode: Encode,
        *,
        encoder: str = "",
        descriptions: int = DESCRIPTIONS,
    ) -> None:
        super().__init__(library)
        owners = [
            (entry.task, text)
            for entry in library.entries
            for text in entry.descriptions[:descriptions]
        ]
        if not owners:
            raise ConfigError(
                f"none of the library's {len(library)} tasks has a description to be found by; "
                "use a library that `t2l train adapters` made, or leave 'retrieval' out"
            )
        self._encode = encode
        self._encoder = encoder
        self._tasks = [task for task, _ in owners]
        with warn_of_cuts_once("of the library's descriptions"):
            self._embeddings = self._embed([text for _, text in owners])

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """See Condition.make."""
        return [cls(*given, encoder=sources.encoder)]

    @property
    def about(self) -> Mapping[str, Any]:
        """The library, its size, and what embeds the descriptions."""
        return {
            "library": self._library.fingerprint,
            "adapters": len(set(self._tasks)),
            "descriptions": len(self._tasks),
            "nearest_by": "cosine, nearest single description",
            "encoder": self._encoder,
        }

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The adapter of the nearest task."""
        texts = list(dict.fromkeys(row.task.definition for row in rows))
        nearest = dict(zip(texts, self.find(texts), strict=True)) if texts else {}
        return [Setup(adapter=nearest[row.task.definition]) for row in rows]

    def find(self, texts: Sequence[str]) -> list[str]:
        """Name of the library task that is nearest to each text."""
        with warn_of_cuts_once("descriptions"):
            embeddings = self._embed(texts)
        cosines = embeddings @ self._embeddings.T  # [texts, descriptions]
        return [self._tasks[place] for place in cosines.argmax(dim=1).tolist()]

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of norm 1; part by part, so that an encoder with a cache loses little."""
        starts = range(0, len(texts), ENCODED_AT_ONCE)
        parts = [self._encode(texts[start : start + ENCODED_AT_ONCE]).float() for start in starts]
        return normalize(torch.cat(parts), dim=-1)


@final
class Oracle(_OfLibrary):
    """The adapter that was trained on the task's own rows; tasks that have none are left out.

    library: of such adapters, by task name; of a held-out task it must have seen support rows
        (idx % 10 < 5) alone, as `t2l train adapters` does it
    """

    kind = "oracle"
    title = "an adapter trained on rows of the task itself that are not scored"
    sources = ("oracle",)
    needs = "a library of the tasks' own adapters; give --oracle (Sources.oracle)"

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """The task's own adapter.

        Raises ConfigError when the library was trained on rows that are scored here.
        """
        names = set(self._library.names)
        data = self._library.training.get("data")
        # Tasks of folders have splits of their own, and imported libraries no record.
        trained_as_train = (
            isinstance(data, Mapping) and data.get("data_dir") and data.get("split") == "train"
        )
        for row in rows:
            if row.task.name in names and row.task.split != "train" and trained_as_train:
                raise ConfigError(
                    f"the oracle library was trained on split 'train', which takes rows with "
                    f"idx % 10 != 9, but {row.task.name!r} is of split {row.task.split!r} and "
                    "scored on idx % 10 >= 5; train it with data.split="
                    f"{row.task.split}, which takes idx % 10 < 5"
                )
        return [Setup(adapter=row.task.name) if row.task.name in names else None for row in rows]
