"""An adapter for each text: the task's description, another's, one that means nothing, or the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, final

from text_to_lora.evaluation.conditions.condition import (
    Condition,
    Generate,
    Setup,
    Sources,
    warn_of_cuts_once,
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


class Described(Condition):
    """What is answered with adapters that are generated from texts.

    generate: one adapter for each text
    """

    sources: ClassVar[tuple[str, ...]] = ("generate",)
    needs: ClassVar[str] = "a hypernetwork (--model; Sources.generate)"

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    def key(self, row: Row) -> str | None:
        """The task's definition makes the adapter."""
        return row.task.definition

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the texts."""
        return self._generate(keys)


@final
class Matched(Described):
    """The adapter of the task's definition: T2L itself."""

    kind = "matched"
    control = False
    title = "the hypernetwork is given the task's description"


@final
class MatchedInPrompt(Described):
    """The adapter of the task's definition, and the definition in the prompt as well."""

    kind = "matched_in_prompt"
    title = "as matched, with the description in the prompt too"
    in_prompt = True


@final
class Paraphrase(Described):
    """The adapter of another description of the task; tasks that have not as many are left out.

    place: of the description, from 1; the definition is description 0
    """

    kind = "paraphrase"
    control = False
    title = "as matched, with other descriptions of the task"

    def __init__(self, generate: Generate, place: int) -> None:
        super().__init__(generate)
        self._place = place

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """See Condition.make; places that no task has a description at are left out."""
        (generate,) = given
        most = max((len(task.descriptions) for task in sources.tasks), default=0)
        return [cls(generate, place) for place in range(1, min(sources.paraphrases + 1, most))]

    @property
    def name(self) -> str:
        """See Condition.name."""
        return f"{self.kind}.{self._place}"

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """See Condition.plan."""
        texts = [row.task.descriptions[self._place :][:1] for row in rows]
        return [Setup(adapter=text[0]) if text else None for text in texts]


@final
class Shuffled(Described):
    """The adapter of another task's definition.

    number: of this derangement, from 1
    definitions: for each task by name, the definition that it is given
    """

    kind = "shuffled"
    primary = True
    title = "as matched, with another task's description; mean of the derangements"

    def __init__(self, generate: Generate, number: int, definitions: Mapping[str, str]) -> None:
        super().__init__(generate)
        self._number = number
        self._definitions = dict(definitions)

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """See Condition.make; one for each derangement.

        Raises ConfigError when the tasks are too alike to be deranged.
        """
        (generate,) = given
        definitions = {task.name: task.definition for task in sources.tasks}
        return [
            cls(generate, number, {name: definitions[donor] for name, donor in donors.items()})
            for number, donors in enumerate(derangements(sources.tasks, seed=sources.seed), start=1)
        ]

    @property
    def name(self) -> str:
        """See Condition.name."""
        return f"{self.kind}.{self._number}"

    def key(self, row: Row) -> str:
        """The other definition makes the adapter."""
        return self._definitions[row.task.name]


@final
class Junk(Described):
    """Adapters of texts that describe nothing, which the rows of each task take in turn."""

    kind = "junk"
    primary = True
    title = "as matched, with a text that describes nothing"

    def plan(self, rows: Sequence[Row]) -> list[Setup]:
        """See Condition.plan."""
        turns: Counter[str] = Counter()
        plan = []
        for row in rows:
            plan.append(Setup(adapter=JUNK[turns[row.task.name] % len(JUNK)]))
            turns[row.task.name] += 1
        return plan


@final
class Hyperdecoder(Described):
    """An adapter for each input, made from the input; rows with a blank input are left out.

    generate: best that of a hypernetwork trained so (`hypernet.reads: input`)
    about: which hypernetwork it is, as JSON values

    Departure from the paper: it is the input alone that is read, not the whole formatted prompt.
    Source: Ivison and Peters (arXiv 2203.08304), as in Text-to-LoRA (arXiv 2506.06105), Table 2.
    """

    kind = "hyperdecoder"
    title = "the hypernetwork is given the input instead of the description"
    sources = ("hyperdecoder", "hyperdecoder_about")
    needs = "a hypernetwork for inputs; give --hyperdecoder (Sources.hyperdecoder)"

    def __init__(self, generate: Generate, about: Mapping[str, Any] | None = None) -> None:
        super().__init__(generate)
        self._about = dict(about or {})

    @property
    def about(self) -> Mapping[str, Any]:
        """Which hypernetwork reads the inputs."""
        return self._about

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """See Condition.plan."""
        texts = [row.example.input for row in rows]
        return [Setup(adapter=text) if text.strip() else None for text in texts]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the inputs; one T2LWarning counts those that the encoder cuts."""
        with warn_of_cuts_once("inputs"):
            return super().adapters(keys)
