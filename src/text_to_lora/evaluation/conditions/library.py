"""Adapters of a library: the task's own (oracle), or that of the task nearest by description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions.condition import Condition, Encode, Setup, Sources
from text_to_lora.evaluation.conditions.cut_warnings import warn_of_cuts_once
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row

DESCRIPTIONS = 4
PART = 128


@final
class Retrieval(Condition):
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
    needs = (
        "a library of adapters; give --library (Sources.library) and an encoder (Sources.encode)"
    )

    def __init__(
        self,
        library: AdapterLibrary,
        encode: Encode,
        *,
        encoder: str = "",
        descriptions: int = DESCRIPTIONS,
    ) -> None:
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
        self._library = library
        self._encode = encode
        self._encoder = encoder
        self._tasks = [task for task, _ in owners]
        with warn_of_cuts_once("of the library's descriptions"):
            self._embeddings = self._embed([text for _, text in owners])

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        if sources.library is None or sources.encode is None:
            return None
        return [cls(sources.library, sources.encode, encoder=sources.encoder)]

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

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Adapters of the library by task."""
        return self._library.select(keys).weights

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of norm 1; part by part, so that an encoder with a cache loses little."""
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        return normalize(torch.cat([self._encode(part).float() for part in parts]), dim=-1)


@final
class Oracle(Condition):
    """The adapter that was trained on the task's own rows.

    library: of such adapters, by task name; of a held-out task it must have seen support rows
        (idx % 10 < 5) alone, as `t2l train adapters` does it
    """

    kind = "oracle"
    title = "an adapter trained on rows of the task itself that are not scored"
    needs = "a library of the tasks' own adapters; give --oracle (Sources.oracle)"

    def __init__(self, library: AdapterLibrary) -> None:
        self._library = library

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        return None if sources.oracle is None else [cls(sources.oracle)]

    @property
    def about(self) -> Mapping[str, Any]:
        """The library."""
        return {"library": self._library.fingerprint, "adapters": len(self._library)}

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """The task's own adapter; tasks that the library lacks are left out.

        Raises ConfigError when the library was trained on rows that are scored here.
        """
        own = set(self._library.names)
        data = self._library.training.get("data")
        for row in rows:
            if row.task.name in own and row.task.split != "train" and _trained_as_train(data):
                raise ConfigError(
                    f"the oracle library was trained on split 'train', which takes rows with "
                    f"idx % 10 != 9, but {row.task.name!r} is of split {row.task.split!r} and "
                    "scored on idx % 10 >= 5; train it with data.split="
                    f"{row.task.split}, which takes idx % 10 < 5"
                )
        return [Setup(adapter=row.task.name) if row.task.name in own else None for row in rows]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Adapters of the library by task."""
        return self._library.select(keys).weights


def _trained_as_train(data: Any) -> bool:
    """Whether a library's record says that its tasks were taken as training tasks.

    Tasks of folders have a split of their own, and imported libraries no record; neither tells.
    """
    return isinstance(data, Mapping) and bool(data.get("data_dir")) and data.get("split") == "train"
