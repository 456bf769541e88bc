"""Condition, a way of answering rows that is scored; Setup, how one row is answered."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Example, Row, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Generate = Callable[[Sequence[str]], LoraWeights]
"""One adapter for each text."""

Encode = Callable[[Sequence[str]], Tensor]
"""One embedding for each text, [texts, embedding_dim]."""

SHOTS = 3
"""Source: Text-to-LoRA (arXiv 2506.06105), Table 2."""

PARAPHRASES = 3


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


@dataclass(frozen=True)
class Sources:
    """What conditions are made of; a condition whose source is None cannot be made.

    tasks: that are scored; seed: of all draws
    generate: one adapter for each description
    encode: embeds descriptions; encoder: its name
    multitask: the multi-task adapter; multitask_in_prompt: the one that was trained with
        descriptions in the prompt
    library: adapters of training tasks
    hyperdecoder: one adapter for each input; hyperdecoder_about: which hypernetwork makes them
    oracle: adapters of the scored tasks themselves
    shots: solved examples in a prompt
    paraphrases: descriptions beside the definition
    experts: library adapters that are routed over, from the first; None: all
    """

    tasks: Sequence[Task] = ()
    seed: int = 0
    generate: Generate | None = None
    encode: Encode | None = None
    encoder: str = ""
    multitask: LoraWeights | None = None
    multitask_in_prompt: LoraWeights | None = None
    library: AdapterLibrary | None = None
    hyperdecoder: Generate | None = None
    hyperdecoder_about: Mapping[str, Any] = field(default_factory=dict)
    oracle: AdapterLibrary | None = None
    shots: int = SHOTS
    paraphrases: int = PARAPHRASES
    experts: int | None = None


class Condition(ABC):
    """One way of answering rows.

    kind: what it is called in options and reports; title: what it is, for readers of a report
    sources: fields of Sources that it cannot do without, the first arguments of the class
    needs: what these are, for the error that says so
    in_prompt: whether the task's definition stands in the prompt
    control: whether `matched` is compared with it; primary: whether before the other controls
    """

    kind: ClassVar[str]
    title: ClassVar[str] = "a condition of one's own"
    sources: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""
    in_prompt: ClassVar[bool] = False
    control: ClassVar[bool] = True
    primary: ClassVar[bool] = False

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """The conditions of this kind; None where the sources lack what they need."""
        given = [getattr(sources, name) for name in cls.sources]
        return None if any(value is None for value in given) else cls.make(sources, *given)

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """The conditions of this kind.

        given: the values of the fields that `sources` of this class names
        """
        return [cls(*given)]

    @property
    def name(self) -> str:
        """The kind, with ".1" and so on where a kind has several; names the file of samples."""
        return self.kind

    @property
    def about(self) -> Mapping[str, Any]:
        """What it is made of, as JSON values: noted in run.json, and equal when a run goes on."""
        return {}

    def plan(self, rows: Sequence[Row]) -> Sequence[Setup | None]:
        """Say how each row is answered, without making any adapter; None leaves a row out."""
        return [
            Setup(self.key(row), row.task.definition if self.in_prompt else None) for row in rows
        ]

    def key(self, row: Row) -> str | None:
        """The key of a row's adapter, as in Setup."""
        return None

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Give one adapter for each of these keys of `plan`; asked for part by part.

        Raises ConfigError when there are none.
        """
        raise ConfigError(f"condition {self.name!r} plans adapters but has none; write `adapters`")

    def on(self, base: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
        """The model that answers inside a `with` block; the base is left as it was."""
        return nullcontext(base)


@contextmanager
def warn_of_cuts_once(what: str) -> Iterator[None]:
    """Gather the warnings of texts that are longer than the encoder reads into one.

    what: the texts are, such as "inputs"
    Other warnings come as they are.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    cut = [
        warning
        for warning in caught
        if issubclass(warning.category, T2LWarning)
        and str(warning.message).startswith("the encoder read")
    ]
    for warning in caught:
        if warning not in cut:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if cut:
        warnings.warn(
            f"{len(cut)} {what} are longer than the encoder reads and are read in part",
            T2LWarning,
            stacklevel=4,
        )
