"""TextEncoder, the protocol of all encoders, and what they share: preparing, batching, scaling."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn import functional

from text_to_lora.encoders.config import EncoderConfig, Pooling, TextSettings
from text_to_lora.errors import ConfigError, T2LWarning, list_some, shorten
from text_to_lora.files import content_hash


class TextEncoder(Protocol):
    """Turns task descriptions into task embeddings.

    One that does not know every token may also have `count_known`, as BatchedEncoder has it.
    """

    @property
    def config(self) -> EncoderConfig:
        """The name of this encoder and the settings by which it reads."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions: [texts, embedding_dim], fp32, each of norm `config.norm`."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each prepared description, special tokens included, before any cut."""
        ...


def prepare(text: str, *, add_full_stop: bool = True) -> str:
    """Strip a description and end it with "." if it ends in a letter.

    Raises ConfigError when nothing is left.
    Source: Text-to-LoRA (arXiv 2506.06105), released code.
    """
    text = text.strip()
    if not text:
        raise ConfigError("the description is empty; say in a sentence what the task is")
    return text + "." if add_full_stop and text[-1].isalpha() else text


def prepare_all(texts: Sequence[str], config: EncoderConfig) -> list[str]:
    """Prepare descriptions and put the encoder's prefix before each.

    Raises ConfigError when one is empty or no whole text (with its position), or when `texts` is
    one string.
    """
    if isinstance(texts, str):
        raise ConfigError(f"a list of descriptions is expected, not the one string {texts[:40]!r}")
    for position, text in enumerate(texts, 1):
        if not text.strip():
            raise ConfigError(
                f"description {position} of {len(texts)} is empty ({text!r}); "
                "say in a sentence what the task is"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(
                f"description {position} of {len(texts)} has half of a surrogate pair "
                f"({shorten(text)}); write the whole character"
            )
    return [config.prefix + prepare(text, add_full_stop=config.add_full_stop) for text in texts]


@dataclass(frozen=True)
class Reading:
    """How much of a description an encoder takes in.

    tokens: of the prepared text, special tokens included, before any cut; tokens_read: after it
    tokens_unknown: those that the encoder's vocabulary does not have
    """

    tokens: int
    tokens_read: int
    tokens_unknown: int

    def to_dict(self) -> dict[str, int]:
        """The fields as JSON values."""
        return asdict(self)


def read_tokens(encoder: TextEncoder, texts: Sequence[str]) -> list[Reading]:
    """Count the tokens of each description that an encoder reads and knows.

    An encoder without the method `count_known` counts as one that knows every token.

    Raises ConfigError when a description is empty.
    """
    limit = encoder.config.max_tokens
    return [
        Reading(tokens, min(tokens, limit), all_tokens - known)
        for tokens, (known, all_tokens) in zip(
            encoder.count_tokens(texts), count_known(encoder, texts), strict=True
        )
    ]


def count_known(encoder: TextEncoder, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Tokens that an encoder knows, and all tokens, of each text, without special tokens.

    An encoder without a method of this name gives (1, 1) for each.
    """
    count = getattr(encoder, "count_known", None)
    counts: list[tuple[int, int]] = count(texts) if count is not None else [(1, 1)] * len(texts)
    return counts


def warn_unread(encoder: TextEncoder, texts: Sequence[str]) -> None:
    """Warn (T2LWarning) of descriptions that an encoder cuts, and of those it does not know.

    Of tokens that the encoder does not know there is one warning for all descriptions.
    """
    limit = encoder.config.max_tokens
    for text, count in zip(texts, encoder.count_tokens(texts), strict=True):
        if count > limit:
            warnings.warn(
                f"the encoder read {limit} of {count} tokens of the description "
                f"{text.strip()[:40]!r}...; shorten it",
                T2LWarning,
                stacklevel=3,
            )
    shares = [
        f"{known} of {all_tokens} tokens of the description {text.strip()[:40]!r}"
        for text, (known, all_tokens) in zip(texts, count_known(encoder, texts), strict=True)
        if known < all_tokens or all_tokens == 0
    ]
    if shares:
        warnings.warn(
            f"the encoder knows {list_some(shares)}; all others are one sign to it, so say the task in "
            "words of the language that it was trained on",
            T2LWarning,
            stacklevel=3,
        )


class BatchedEncoder(ABC):
    """An encoder that embeds prepared texts of like length together.

    batch_size: texts embedded at once
    kind, name, revision, embedding_dim, pooling: as in EncoderConfig
    model_limit: tokens that the model can read; weights: SHA-256 that stands for its weights
    settings: how texts are read; None for the usual way

    Raises ConfigError when `settings` asks for more tokens than the model reads.
    """

    batch_size = 32
    _unknown_id: int | None = None  # that stands for every token that the encoder does not know

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        revision: str | None,
        embedding_dim: int,
        model_limit: int,
        pooling: Pooling,
        weights: str,
        settings: TextSettings | None,
    ) -> None:
        settings = settings or TextSettings()
        limit = model_limit if settings.max_tokens is None else settings.max_tokens
        if limit > model_limit:
            raise ConfigError(
                f"encoder: max_tokens is {limit}; {name!r} reads at most {model_limit}"
            )
        norm = float(embedding_dim**0.5 if settings.norm is None else settings.norm)
        read = (settings.prefix, settings.add_full_stop, norm)
        fingerprint = content_hash([weights, pooling, embedding_dim, limit, *read])
        self.config = EncoderConfig(
            kind, name, revision, embedding_dim, limit, pooling, *read, fingerprint
        )

    @final
    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions: [texts, embedding_dim], fp32 on the CPU, each of norm `config.norm`.

        Raises ConfigError when a description is empty; warns (T2LWarning) when one is cut or has
        tokens that the encoder does not know.
        """
        prepared = prepare_all(texts, self.config)
        warn_unread(self, texts)
        lengths = self.count_tokens(texts)
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        embeddings = torch.empty(len(texts), self.config.embedding_dim)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            embeddings[rows] = self._embed([prepared[row] for row in rows]).float().cpu()
        return functional.normalize(embeddings, dim=-1) * self.config.norm

    @final
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each prepared description, special tokens included, before any cut."""
        return [len(row) for row in self._tokenize(prepare_all(texts, self.config), special=True)]

    @final
    def count_known(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Tokens that the encoder knows, and all tokens, of each text, without special tokens."""
        rows = self._tokenize(prepare_all(texts, self.config), special=False)
        unknown = self._unknown_id
        return [(sum(token != unknown for token in row), len(row)) for row in rows]

    @abstractmethod
    def _tokenize(self, prepared: list[str], *, special: bool) -> list[list[int]]:
        """Token ids of each text before any cut, with or without special tokens."""

    @abstractmethod
    def _embed(self, prepared: list[str]) -> Tensor:
        """Embed texts of like length, cut to `config.max_tokens`: [texts, embedding_dim]."""


class FileTokenizer:
    """A tokenizer.json whose last token of every text is special, and kept by a cut.

    Raises ConfigError when the file is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises the bare class
            raise ConfigError(f"{str(path)!r} is no tokenizer: {error}; fetch it anew") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

        name = getattr(self._tokenizer.model, "unk_token", None)
        self.unknown_id: int | None = self._tokenizer.token_to_id(name) if name else None

    def ids(
        self, texts: Sequence[str], limit: int | None = None, *, special: bool = True
    ) -> list[list[int]]:
        """Token ids of each text, cut to `limit` tokens; special: with special tokens."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
        rows = [encoding.ids for encoding in encodings]
        if limit is None:
            return rows
        return [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]


def tokenize(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """Token ids of texts by a tokenizer of transformers; special: with special tokens."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=special)["input_ids"]
    return [list(row) for row in rows]


def pad_right(ids: Sequence[Sequence[int]], device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask (True on tokens), both [texts, seq]; padding is id 0, masked."""
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids], device=device)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    return tokens, torch.arange(width, device=device) < lengths[:, None]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce the hidden states of every text to one vector.

    hidden: hidden states [texts, seq, hidden], padded on the right; mask: [texts, seq]
    Returns [texts, hidden].
    """
    if pooling == "cls":
        return hidden[:, 0]
    lengths = mask.sum(1)
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return (hidden * mask[..., None]).sum(1) / lengths[:, None]
