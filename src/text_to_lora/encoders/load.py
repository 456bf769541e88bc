"""load_encoder: a text encoder by name, or the one that a hypernetwork was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch

from text_to_lora.encoders.base import TextEncoder
from text_to_lora.encoders.cache import CachedEncoder
from text_to_lora.encoders.config import EncoderConfig, TextSettings
from text_to_lora.encoders.gte import GTE_BASE, GTE_LARGE, GteEncoder
from text_to_lora.encoders.hashed import HashEncoder
from text_to_lora.encoders.language_model import LanguageModelEncoder
from text_to_lora.encoders.minilm import MiniLMEncoder
from text_to_lora.encoders.one_hot import OneHotEncoder
from text_to_lora.encoders.sentence_transformer import SentenceTransformerEncoder
from text_to_lora.errors import ConfigError

_Device = str | torch.device
# From a name, its settings, a revision, a device, and the stored config where there is one.
_Loader = Callable[[str, TextSettings, str | None, _Device, EncoderConfig | None], TextEncoder]

ENCODERS: Final[Mapping[str, _Loader]] = {
    "sentence-transformers": lambda name, settings, revision, device, _: SentenceTransformerEncoder(
        name, settings, revision=revision, device=device
    ),
    "minilm": lambda name, settings, revision, device, _: MiniLMEncoder(settings, device=device),
    "gte": lambda name, settings, revision, device, _: GteEncoder(
        name, settings, revision=revision, device=device
    ),
    "language-model": lambda name, settings, revision, device, _: LanguageModelEncoder.load(
        name, settings, revision=revision, device=device
    ),
    "hash": lambda name, settings, revision, device, stored: HashEncoder(
        stored.embedding_dim if stored else 32, settings
    ),
    "one-hot": lambda name, settings, revision, device, stored: OneHotEncoder(
        stored.tasks if stored else ()
    ),
}
"""Every kind of encoder, and how one is made."""
# The model that a kind stands for when it is named alone.
_DEFAULTS: Final = {"minilm": "minilm", "hash": "hash", "gte": GTE_LARGE}


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
        ENCODERS; or the bare name or folder of a sentence-transformers model
    cache_dir: keep embeddings in this folder
    revision, settings: for a name; a stored config carries its own

    Raises ConfigError when the encoder cannot be loaded, or is not the one of the stored config.
    """
    if isinstance(which, EncoderConfig):
        if revision is not None or settings is not None:
            raise ConfigError(
                "revision and settings belong to the stored config; change them there"
            )
        if which.kind not in ENCODERS:
            raise ConfigError(f"encoder: kind is {which.kind!r}; one of {', '.join(ENCODERS)}")
        load = ENCODERS[which.kind]
        encoder = load(which.name, which.settings, which.revision, device, which)
        _check(encoder.config, which)
    else:
        kind, name = _parse(which)
        encoder = ENCODERS[kind](name, settings or TextSettings(), revision, device, None)
    return encoder if cache_dir is None else CachedEncoder(encoder, cache_dir)


def _parse(which: str) -> tuple[str, str]:
    """The kind and the name in "KIND:NAME", a bare kind, or a bare name."""
    if not which.strip():
        raise ConfigError(f"the text encoder's name is {which!r}; 'minilm' or a model is expected")
    kind, _, name = which.partition(":")
    if kind == "one-hot":
        raise ConfigError(
            "the encoder 'one-hot' knows the tasks of one library; it comes with a hypernetwork "
            "that was trained to reconstruct it (`t2l compress`)"
        )
    if kind in ENCODERS:
        name = name or _DEFAULTS.get(kind, "")
        if not name:
            raise ConfigError(f"the text encoder {which!r} needs a name; write {kind}:NAME")
        return kind, name
    return ("gte", which) if which in (GTE_LARGE, GTE_BASE) else ("sentence-transformers", which)


def _check(config: EncoderConfig, stored: EncoderConfig) -> None:
    """Raise ConfigError unless `config` gives the embeddings that `stored` promises."""
    if config.embedding_dim != stored.embedding_dim:
        raise ConfigError(
            f"the text encoder {stored.name!r} is {config.embedding_dim} wide; "
            f"the hypernetwork was trained with {stored.embedding_dim}; load that encoder"
        )
    if stored.fingerprint and config.fingerprint != stored.fingerprint:
        raise ConfigError(
            f"the text encoder {stored.name!r} has fingerprint {config.fingerprint}; the "
            f"hypernetwork was trained with {stored.fingerprint}; load that encoder"
        )
