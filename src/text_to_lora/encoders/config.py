"""EncoderConfig: a text encoder's name and settings, stored with a hypernetwork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from text_to_lora.errors import ConfigError
from text_to_lora.fields import check_fields, check_positive, from_json

Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True)
class TextSettings:
    """How a description is read, whichever model reads it.

    prefix: text put before every description
    add_full_stop: end descriptions that end in a letter with "."
    norm: L2 norm of every task embedding; None for sqrt(embedding_dim)
    max_tokens: tokens read, special tokens included; None for the model's own limit

    Source: Text-to-LoRA (arXiv 2506.06105), released code: "." after a letter, norm sqrt(dim).
    """

    prefix: str = ""
    add_full_stop: bool = True
    norm: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """Names a text encoder and holds every setting that changes an embedding.

    kind: its name in `encoders.load.ENCODERS`; name: a model of the hub or a local folder
    revision: commit of the hub or version of the package; None for a local folder
    embedding_dim: width of a task embedding; max_tokens: tokens read of one description
    pooling: which hidden states become the embedding
    prefix, add_full_stop: as in TextSettings
    norm: L2 norm of every task embedding
    fingerprint: SHA-256 over the weights and all of the above that changes an embedding;
        empty when it is not known yet, then it is not checked
    tasks: of "one-hot" alone: the names that it knows, in the order of the embedding's places

    Raises ConfigError when a field has a value that cannot work.
    """

    kind: str
    name: str
    revision: str | None
    embedding_dim: int
    max_tokens: int
    pooling: Pooling
    prefix: str
    add_full_stop: bool
    norm: float
    fingerprint: str
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "encoder", ConfigError)
        check_positive(self, ("embedding_dim", "max_tokens", "norm"), "encoder", ConfigError)
        expected = self.embedding_dim if self.kind == "one-hot" else 0
        if not all(name.strip() for name in self.tasks):
            raise ConfigError(f"encoder: tasks is {list(self.tasks)}; one name is empty")
        if twice := {name for name in self.tasks if self.tasks.count(name) > 1}:
            raise ConfigError(f"encoder: tasks has {min(twice)!r} twice; names are distinct")
        if len(self.tasks) != expected:
            raise ConfigError(
                f"encoder: tasks has {len(self.tasks)} names; {expected} are expected of kind "
                f"{self.kind!r} with embedding_dim {self.embedding_dim}"
            )

    @property
    def settings(self) -> TextSettings:
        """How this encoder reads a description."""
        return TextSettings(self.prefix, self.add_full_stop, self.norm, self.max_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; without `tasks` where there are none."""
        payload = asdict(self)
        del payload["tasks"]  # as in files older than the field
        return payload | ({"tasks": list(self.tasks)} if self.tasks else {})

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> EncoderConfig:
        """Read what `to_dict` gave.

        Raises ConfigError when a field is missing, unknown or of another type.
        """
        return from_json(cls, payload, "encoder", ConfigError, optional=("tasks",))
