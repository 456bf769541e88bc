"""An adapter for each description: the task's own, another task's, or one that means nothing."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import final

from text_to_lora.baselines.protocol import Baseline, Generate, Setup, in_turn
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row

JUNK: tuple[str, ...] = (
    "dogs;cats;bananas;",
    "asjdkf;lkj asdlkfj qwpoeiru zxmcnv;alskdjf",
    "gggggggggggggggggggggggggggggg",
    "window seven under quickly marble the paint of eleven soup nor lamp drift",
    "of blue tomorrow chairs sing, because the bread was north and a spoon of gravel",
)
"""Descriptions that describe nothing.

The first three are of the kinds in the paper's alignment test (its keyboard mash is not published),
the others word salad. Source: Text-to-LoRA (arXiv 2506.06105), Table 5.
"""


class Described(Baseline, ABC):
    """What is answered with generated adapters.

    generate: one adapter for each description
    """

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    @final
    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the descriptions."""
        return self._generate(keys)


@final
class Matched(Described):
    """The adapter of the task's definition: T2L itself."""

    name = "matched"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The definition makes the adapter."""
        return [Setup(adapter=row.task.definition) for row in rows]


@final
class Paraphrase(Described):
    """The adapter of another description of the task.

    place: of the description, from 1; the definition is description 0
    """

    def __init__(self, place: int, generate: Generate) -> None:
        self.name = f"paraphrase.{place}"
        self._place = place
        super().__init__(generate)

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """The description makes the adapter; tasks that have not as many are left out."""
        return [
            Setup(adapter=row.task.descriptions[self._place])
            if self._place < len(row.task.descriptions)
            else None
            for row in rows
        ]


@final
class Shuffled(Described):
    """The adapter of another task's definition.

    number: of this derangement, from 1
    definitions: for each task by name, the definition that it is given
    """

    def __init__(self, number: int, definitions: Mapping[str, str], generate: Generate) -> None:
        self.name = f"shuffled.{number}"
        self._definitions = dict(definitions)
        super().__init__(generate)

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The other definition makes the adapter."""
        return [Setup(adapter=self._definitions[row.task.name]) for row in rows]


@final
class Junk(Described):
    """Adapters of texts that describe nothing, which the rows of each task take in turn."""

    name = "junk"

    def __init__(self, generate: Generate, texts: Sequence[str] = JUNK) -> None:
        super().__init__(generate)
        self._texts = tuple(texts)

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """A junk text makes the adapter."""
        texts = in_turn(rows, {row.task.name: self._texts for row in rows})
        return [Setup(adapter=text) for text in texts]
