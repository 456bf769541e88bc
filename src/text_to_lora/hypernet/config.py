"""HypernetConfig: the sizes and the variant of a hypernetwork, stored in its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, Self, get_args

from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.tokens import TokenConfig

HeadKind = Literal["joint", "shared", "rank"]
OutputKind = Literal["direct", "zscore", "delta"]

_CHOICES: Final = {"head": get_args(HeadKind), "output": get_args(OutputKind)}
_OPTIONAL: Final = ("task_vector_dim", "tokens")
_SIZES: Final = ("embedding_dim", "latent_size", "head_in_size", "task_vector_dim")


@dataclass(frozen=True)
class HypernetConfig:
    """Sizes and variant of a hypernetwork.

    head: "joint" (L: A and B at once), "shared" (M: one head for A and B) or "rank" (S: one head
        for every rank row of A and B)
    embedding_dim: width of a task embedding
    latent_size: width of the mixed task, depth and type codes; a multiple of 4
    head_in_size: width of the heads' input
    dropout: share of activations dropped in training
    output: "direct" (the factors themselves), "zscore" (factors in standard deviations from the
        mean of a library of adapters) or "delta" (factors whose product was scaled in training)
    delta_scaling: of "delta": factor of ΔW in training; A and B are divided by its square root
    task_vector_dim: width of a vector that is learned for each of the one-hot embeddings' places
        and takes the embedding's place; None reads embeddings as they are
    tokens: sizes of the parts that read the base's states of a description, token by token; None
        reads the sentence embedding alone

    Raises ConfigError when a field has a value that cannot work.
    Source: Text-to-LoRA (arXiv 2506.06105); defaults are those of its Mistral-7B models.
    """

    head: HeadKind
    embedding_dim: int
    latent_size: int = 128
    head_in_size: int = 512
    dropout: float = 0.05
    output: OutputKind = "direct"
    delta_scaling: float = 1e4
    task_vector_dim: int | None = None
    tokens: TokenConfig | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise _error(name, getattr(self, name), f"one of {', '.join(allowed)}")
        for name in _SIZES:
            size = getattr(self, name)
            if name == "task_vector_dim" and size is None:
                continue
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise _error(name, size, "a whole number of 1 or more is needed")
        if self.latent_size % 4:
            raise _error("latent_size", self.latent_size, "a multiple of 4 is needed")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise _error("dropout", self.dropout, "a number from 0 to below 1 is needed")
        if not _is_number(self.delta_scaling) or self.delta_scaling <= 0:
            raise _error("delta_scaling", self.delta_scaling, "a number above 0 is needed")

    @property
    def head_bias(self) -> bool:
        """Whether the heads have a bias; under z-scores the mean of the library stands for it."""
        return self.output != "zscore"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; those of `_OPTIONAL` only where they are set."""
        payload = asdict(self)
        for name in _OPTIONAL:
            if payload[name] is None:  # as in files older than the field
                del payload[name]
        if self.tokens is not None:
            payload["tokens"] = self.tokens.to_dict()
        return payload

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises ConfigError when a field is missing, unknown or cannot work.
        """
        if not isinstance(payload, Mapping):
            raise ConfigError(f"hypernet is {payload!r}; an object is needed")
        names = {field.name for field in fields(cls)}
        missing = sorted(names - set(_OPTIONAL) - set(payload))
        unknown = sorted(set(payload) - names)
        if missing or unknown:
            raise ConfigError(f"hypernet: missing fields {missing}, unknown fields {unknown}")
        values = dict(payload)
        if "tokens" in values:
            values["tokens"] = TokenConfig.from_dict(values["tokens"])
        return cls(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _error(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"hypernet: {name} is {value!r}; {allowed}")
