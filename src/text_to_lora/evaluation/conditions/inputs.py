"""Hyperdecoder: the hypernetwork reads each row's input, so that every row has its own adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

from text_to_lora.evaluation.conditions.condition import Condition, Generate, Setup, Sources
from text_to_lora.evaluation.conditions.cut_warnings import warn_of_cuts_once
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row


@final
class Hyperdecoder(Condition):
    """An adapter for each input, made from the input instead of a description.

    generate: best that of a hypernetwork trained so (`hypernet.reads: input`)
    about: which hypernetwork it is, as JSON values

    Departure from the paper: it is the input alone that is read, not the whole formatted prompt.
    Source: Ivison and Peters (arXiv 2203.08304), as in Text-to-LoRA (arXiv 2506.06105), Table 2.
    """

    kind = "hyperdecoder"
    title = "the hypernetwork is given the input instead of the description"
    needs = "a hypernetwork for inputs; give --hyperdecoder (Sources.hyperdecoder)"

    def __init__(self, generate: Generate, about: Mapping[str, Any] | None = None) -> None:
        self._generate = generate
        self._about = dict(about or {})

    @classmethod
    def from_sources(cls, sources: Sources) -> list[Self] | None:
        """See Condition.from_sources."""
        if sources.hyperdecoder is None:
            return None
        return [cls(sources.hyperdecoder, sources.hyperdecoder_about)]

    @property
    def about(self) -> Mapping[str, Any]:
        """Which hypernetwork reads the inputs."""
        return self._about

    def plan(self, rows: Sequence[Row]) -> list[Setup | None]:
        """The row's input makes its adapter; rows with a blank input are left out."""
        texts = [row.example.input for row in rows]
        return [Setup(adapter=text) if text.strip() else None for text in texts]

    def adapters(self, keys: Sequence[str]) -> LoraWeights:
        """Generate from the inputs; one T2LWarning counts those that the encoder cuts."""
        with warn_of_cuts_once("inputs"):
            return self._generate(keys)
