"""HypernetConfig: the sizes and the variant of a hypernetwork, stored in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from text_to_lora.choices import HeadName
from text_to_lora.errors import ConfigError
from text_to_lora.fields import check_fields, check_positive, from_json

OutputName = Literal["direct", "zscore", "delta"]

_OPTIONAL: Final = ("task_vector_dim", "tokens")  # left out of files where they are None


@dataclass(frozen=True)
class TokenConfig:
    """Sizes of the parts that read token states.

    hidden_size: width of the base's hidden states
    attention_size: width of the cross-attention, over all of its heads; heads: how many
    layer_stride: states are read at every layer whose number this divides
    direct: paths of modules that write into the residual stream and store words; none: no module
    key_size: width of a query and of a key when a rank of those modules points at a token
    max_tokens: tokens of a description that are read

    Raises ConfigError when a field has a value that cannot work.
    """

    hidden_size: int
    attention_size: int = 128
    heads: int = 2
    layer_stride: int = 3
    direct: tuple[str, ...] = ()
    key_size: int = 32
    max_tokens: int = 128

    def __post_init__(self) -> None:
        place = "hypernet.tokens"
        check_fields(self, place, ConfigError)
        counts = [name for name in vars(self) if name != "direct"]
        check_positive(self, counts, place, ConfigError)
        if self.attention_size % self.heads:
            raise ConfigError(
                f"{place}: attention_size is {self.attention_size}; "
                f"a multiple of heads={self.heads} is needed"
            )
        if not all(self.direct):
            raise ConfigError(f"{place}: direct is {self.direct!r}; paths of modules are needed")


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

    head: HeadName
    embedding_dim: int
    latent_size: int = 128
    head_in_size: int = 512
    dropout: float = 0.05
    output: OutputName = "direct"
    delta_scaling: float = 1e4
    task_vector_dim: int | None = None
    tokens: TokenConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, "hypernet", ConfigError)
        sizes = ("embedding_dim", "latent_size", "head_in_size", "task_vector_dim", "delta_scaling")
        check_positive(self, sizes, "hypernet", ConfigError)
        if self.latent_size % 4:
            raise ConfigError(
                f"hypernet: latent_size is {self.latent_size}; a multiple of 4 is needed"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"hypernet: dropout is {self.dropout}; a number from 0 to below 1 is needed"
            )

    @property
    def head_bias(self) -> bool:
        """Whether the heads have a bias; under z-scores the mean of the library stands for it."""
        return self.output != "zscore"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; those of `_OPTIONAL` only where they are set."""
        payload = asdict(self)
        if self.tokens is not None:
            payload["tokens"]["direct"] = list(self.tokens.direct)
        return {k: v for k, v in payload.items() if v is not None or k not in _OPTIONAL}

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises ConfigError when a field is missing, unknown or cannot work.
        """
        return from_json(cls, payload, "hypernet", ConfigError, optional=_OPTIONAL)
