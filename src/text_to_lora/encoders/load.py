"""load_encoder: a text encoder by name, or the one that a hypernetwork was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch

from text_to_lora.encoders.base import TextEncoder
from text_to_lora.encoders.cache import CachedEncoder
from text_to_lora.encoders.config import EncoderConfig, Kind, TextSettings
from text_to_lora.encoders.gte import GTE_BASE, GTE_LARGE, GteEncoder
from text_to_lora.encoders.hashed import HashEncoder
from text_to_lora.encoders.language_model import LanguageModelEncoder
from text_to_lora.encoders.minilm import MiniLMEncoder
from text_to_lora.encoders.one_hot import OneHotEncoder
from text_to_lora.encoders.sentence_transformer import SentenceTransformerEncoder
from text_to_lora.errors import ConfigError

_HASH_DIM = 32


def load_encoder(
    which: EncoderConfig | str,
    *,
    device: str | torch.device = "cpu",
    cache_dir: Path | str | None = None,
    revision: str | None = None,
    settings: TextSettings | None = None,
) -> TextEncoder:
    """Load a text encoder.

    which: a stored EncoderConfig; or "minilm", "hash", "gte"; or "KIND:NAME" with a kind of
        EncoderConfig; or the bare name or folder of a sentence-transformers model
    cache_dir: keep embeddings in this folder
    revision, settings: for a name; a stored config carries its own

    Raises ConfigError when the encoder cannot be loaded, or is not the one of the stored config.
    """
    if isinstance(which, EncoderConfig):
        if revision is not None or settings is not None:
            raise ConfigError(
                "revision and settings belong to the stored config; change them there"
            )
        encoder = _load(
            which.kind,
            which.name,
            which.revision,
            which.settings,
            device,
            which.embedding_dim,
            which.tasks,
        )
        _check(encoder.config, which)
    else:
        kind, name = _parse(which)
        encoder = _load(kind, name, revision, settings or TextSettings(), device, _HASH_DIM)
    return encoder if cache_dir is None else CachedEncoder(encoder, cache_dir)


def _parse(which: str) -> tuple[Kind, str]:
    """The kind and the name in "KIND:NAME", a bare kind, or a bare name."""
    if not which.strip():
        raise ConfigError(f"the text encoder's name is {which!r}; 'minilm' or a model is expected")
    head, _, name = which.partition(":")
    if head == "one-hot":
        raise ConfigError(
            "the encoder 'one-hot' knows the tasks of one library; it comes with a hypernetwork "
            "that was trained to reconstruct it (`t2l compress`)"
        )
    for kind in get_args(Kind):
        if head == kind and (name or kind in ("minilm", "hash", "gte")):
            return kind, name or (GTE_LARGE if kind == "gte" else kind)
        if which == kind:
            raise ConfigError(f"the text encoder {which!r} needs a name; write {kind}:NAME")
    return ("gte", which) if which in (GTE_LARGE, GTE_BASE) else ("sentence-transformers", which)


def _load(
    kind: Kind,
    name: str,
    revision: str | None,
    settings: TextSettings,
    device: str | torch.device,
    hash_dim: int,
    tasks: tuple[str, ...] = (),
) -> TextEncoder:
    if kind == "one-hot":
        return OneHotEncoder(tasks)
    if kind == "hash":
        return HashEncoder(hash_dim, settings)
    if kind == "minilm":
        return MiniLMEncoder(settings, device=device)
    if kind == "gte":
        return GteEncoder(name, settings, revision=revision, device=device)
    if kind == "language-model":
        return LanguageModelEncoder.load(name, settings, revision=revision, device=device)
    return SentenceTransformerEncoder(name, settings, revision=revision, device=device)


def _check(found: EncoderConfig, stored: EncoderConfig) -> None:
    """Raise ConfigError unless `found` gives the embeddings that `stored` promises."""
    if found.embedding_dim != stored.embedding_dim:
        raise ConfigError(
            f"the text encoder {stored.name!r} is {found.embedding_dim} wide; "
            f"the hypernetwork was trained with {stored.embedding_dim}; load that encoder"
        )
    if stored.fingerprint and found.fingerprint != stored.fingerprint:
        raise ConfigError(
            f"the text encoder {stored.name!r} has fingerprint {found.fingerprint}; the "
            f"hypernetwork was trained with {stored.fingerprint}; load that encoder"
        )
