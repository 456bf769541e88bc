"""ReconstructionConfig: everything that decides how a library of adapters is compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from text_to_lora.training.config import (
    AdamWSection,
    Count,
    EncoderSection,
    LengthSection,
    NotNegative,
    Positive,
    Recipe,
    Section,
    Share,
    SizesSection,
    TokensSection,
)


class LibrarySection(Section):
    """The adapters, and how many of them a step sees."""

    library: Path | None = None
    """folder of the library"""
    adapters: Count | None = None
    """the first so many of its adapters; null for all"""
    skip_bad: bool = False
    """leave broken adapters out with a warning; false stops at the first"""
    tasks_per_batch: Count = 4
    """adapters of one step, over all processes; all of them where there are fewer"""
    descriptions_per_task: Count | None = None
    """descriptions used of each task, from the first; null for all"""
    base: Path | None = None
    """base model that reads the descriptions where tokens.read is true: "embedded", a folder, or a
    repository of the hub; null for the one that the adapters name"""
    fingerprint: str = ""
    """of the adapters; the run fills it in, so that it goes on with the same ones alone"""


class ConditioningSection(Section):
    """What tells the hypernetwork which task is meant."""

    kind: Literal["text", "one-hot", "learned"] = "text"
    """embeddings of descriptions; or names, each with a place of its own ("one-hot") or with a
    vector that is learned ("learned")"""
    vector_dim: Count = 64
    """of "learned": width of a task's vector, in numbers"""


class TargetSection(Section):
    """What is predicted, and the loss on it."""

    target: Literal["zscore", "factors", "delta"] = "zscore"
    """L1 on the factors in standard deviations from the library's mean, on the factors as they are,
    or on their product ΔW = B A"""
    delta_scaling: Positive = 1e4
    """of "delta": factor of ΔW in the loss; generated A and B are divided by its square root"""
    lora_scaling: bool = False
    """of "delta": count ΔW with the adapters' own scaling, alpha / rank or alpha / sqrt(rank)"""


class ReconstructionOptimizerSection(AdamWSection):
    """AdamW as the reference reconstructs with it."""

    lr: Positive = 1e-3
    """peak learning rate"""
    warmup: Share = 0.1
    """share of the steps in which the rate rises to its peak"""
    weight_decay: NotNegative = 1e-3
    """decoupled, per step and unit of learning rate"""


class ReconstructionRunSection(LengthSection):
    """Length, cadence and place of the run, and what picks its weights."""

    select_by: Literal["delta", "factors", "last"] = "delta"
    """the weights with the least relative error of ΔW, with the least L1 of the factors, or the
    last ones"""


class ReconstructionConfig(Recipe):
    """A reconstruction run; stored beside the weights that it made."""

    verb = "reconstruct"

    data: LibrarySection = LibrarySection()
    conditioning: ConditioningSection = ConditioningSection()
    encoder: EncoderSection = EncoderSection()
    hypernet: SizesSection = SizesSection()
    tokens: TokensSection = TokensSection()
    objective: TargetSection = TargetSection()
    optimizer: ReconstructionOptimizerSection = ReconstructionOptimizerSection()
    run: ReconstructionRunSection = ReconstructionRunSection()

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.tokens.read and self.conditioning.kind != "text":
            raise ValueError(
                f"tokens.read is true but conditioning.kind is {self.conditioning.kind!r}, which has "
                "no description to read; set conditioning.kind to 'text' or tokens.read to false"
            )
        if self.data.base is not None and not self.tokens.read:
            raise ValueError(
                f"data.base is {str(self.data.base)!r} but tokens.read is false, so that no base is "
                "loaded; set tokens.read to true or data.base to null"
            )
        return self
