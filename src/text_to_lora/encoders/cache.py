"""CachedEncoder: embeddings kept on disk by the content of description and encoder.

One safetensors file per call that computed something, named by what it holds and renamed into
place: any number of processes may read and write one folder. A broken file is computed anew.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.encoders.base import TextEncoder, count_known, prepare_all, warn_unread
from text_to_lora.errors import T2LWarning
from text_to_lora.files import content_hash, write_file


@final
class CachedEncoder:
    """A text encoder that embeds each description once.

    folder: shared by all encoders; each has a folder of its own in it, by fingerprint
    """

    def __init__(self, encoder: TextEncoder, folder: Path | str) -> None:
        self._encoder = encoder
        self.config = encoder.config
        self._folder = Path(folder) / encoder.config.fingerprint
        self._read: set[Path] = set()
        self._known: dict[str, Tensor] = {}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each prepared description, special tokens included, before any cut."""
        return self._encoder.count_tokens(texts)

    def count_known(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """Tokens that the encoder knows, and all tokens, of each text, without special tokens."""
        return count_known(self._encoder, texts)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed descriptions, from disk where known: [texts, embedding_dim], fp32.

        Raises ConfigError when a description is empty or the folder cannot be written; warns
        (T2LWarning) when a description is cut or not known, or a file of the cache is broken.
        """
        keys = [hashlib.sha256(t.encode()).hexdigest() for t in prepare_all(texts, self.config)]
        if not self._known.keys() >= set(keys):
            self._read_files()
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        old = [text for key, text in zip(keys, texts, strict=True) if key not in new]
        warn_unread(self, old)
        if new:
            embeddings = self._encoder.encode(list(new.values()))
            self._known.update(zip(new, embeddings, strict=True))
            self._write_file(list(new), embeddings)
        return (
            torch.stack([self._known[key] for key in keys])
            if keys
            else torch.empty(0, self.config.embedding_dim)
        )

    def _write_file(self, keys: list[str], embeddings: Tensor) -> None:
        rows = torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8)
        path = self._folder / f"{content_hash(keys)}.safetensors"
        write_file(path, lambda file: save_file({"keys": rows, "embeddings": embeddings}, file))
        self._read.add(path)

    def _read_files(self) -> None:
        for path in sorted(set(self._folder.glob("*.safetensors")) - self._read):
            self._read.add(path)
            try:
                tensors = load_file(path)
                keys, embeddings = tensors["keys"], tensors["embeddings"]
                size = (len(keys), self.config.embedding_dim)
                if keys.shape != (len(keys), 32) or embeddings.shape != size:
                    raise ValueError(f"shapes {tuple(keys.shape)} and {tuple(embeddings.shape)}")
                if not embeddings.isfinite().all():
                    raise ValueError("NaN or infinity")
            except (SafetensorError, KeyError, ValueError, OSError) as error:
                warnings.warn(
                    f"the cached embeddings {str(path)!r} cannot be read ({error}) "
                    "and are computed anew; delete the file",
                    T2LWarning,
                    stacklevel=3,
                )
                continue
            names = (bytes(row).hex() for row in keys.tolist())
            self._known.update(zip(names, embeddings, strict=True))
