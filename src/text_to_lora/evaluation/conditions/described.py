"""An adapter for each description: the task's own, another task's, or one that means nothing."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, final

from text_to_lora.evaluation.conditions.condition import (
    Condition,
    Generate,
    Setup,
    Sources,
    in_turn,
)
from text_to_lora.evaluation.conditions.donors import derangements
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


class Described(Condition, ABC):
    """What is answered with generated adapters.

    generate: one adapter for each description
    """

    needs: ClassVar[str] = "a hypernetwork (--model; Sources.generate)"

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        return None if sources.generate is None else [cls(sources.generate)]

    @final
    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the descriptions."""
        return self._generate(keys)


@final
class Matched(Described):
    """The adapter of the task's definition: T2L itself."""

    kind = "matched"
    control = False
    title = "the hypernetwork is given the task's description"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The definition makes the adapter."""
        return [Setup(adapter=row.task.definition) for row in rows]


@final
class MatchedInPrompt(Described):
    """The adapter of the task's definition, and the definition in the prompt as well."""

    kind = "matched_in_prompt"
    title = "as matched, with the description in the prompt too"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The definition makes the adapter and stands in the prompt."""
        return [Setup(adapter=row.task.definition, description=row.task.definition) for row in rows]


@final
class Paraphrase(Described):
    """The adapter of another description of the task.

    place: of the description, from 1; the definition is description 0
    """

    kind = "paraphrase"
    control = False
    title = "as matched, with other descriptions of the task"

    def __init__(self, place: int, generate: Generate) -> None:
        self._place = place
        super().__init__(generate)

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources; places that no task has a description at are left out."""
        if sources.generate is None:
            return None
        most = max((len(task.descriptions) for task in sources.tasks), default=0)
        places = range(1, min(sources.paraphrases + 1, most))
        return [cls(place, sources.generate) for place in places]

    @property
    def name(self) -> str:
        """See Condition.name."""
        return f"{self.kind}.{self._place}"

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

    kind = "shuffled"
    primary = True
    title = "as matched, with another task's description; mean of the derangements"

    def __init__(self, number: int, definitions: Mapping[str, str], generate: Generate) -> None:
        self._number = number
        self._definitions = dict(definitions)
        super().__init__(generate)

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources; one for each derangement.

        Raises ConfigError when the tasks are too alike to be deranged.
        """
        if sources.generate is None:
            return None
        definitions = {task.name: task.definition for task in sources.tasks}
        return [
            cls(
                number,
                {name: definitions[donor] for name, donor in donors.items()},
                sources.generate,
            )
            for number, donors in enumerate(derangements(sources.tasks, seed=sources.seed), start=1)
        ]

    @property
    def name(self) -> str:
        """See Condition.name."""
        return f"{self.kind}.{self._number}"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """The other definition makes the adapter."""
        return [Setup(adapter=self._definitions[row.task.name]) for row in rows]


@final
class Junk(Described):
    """Adapters of texts that describe nothing, which the rows of each task take in turn."""

    kind = "junk"
    primary = True
    title = "as matched, with a text that describes nothing"

    def __init__(self, generate: Generate, texts: Sequence[str] = JUNK) -> None:
        super().__init__(generate)
        self._texts = tuple(texts)

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """A junk text makes the adapter."""
        texts = in_turn(rows, {row.task.name: self._texts for row in rows})
        return [Setup(adapter=text) for text in texts]
