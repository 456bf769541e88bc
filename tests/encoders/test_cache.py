"""CachedEncoder: each description is embedded once, by any number of processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from text_to_lora.encoders import (
    CachedEncoder,
    EncoderConfig,
    HashEncoder,
    TextSettings,
    load_encoder,
)
from text_to_lora.encoders.base import Reading, read_tokens, warn_unknown
from text_to_lora.errors import ConfigError, T2LWarning


class CountingEncoder:
    """A HashEncoder that keeps what it was asked for."""

    def __init__(self, settings: TextSettings | None = None) -> None:
        self._encoder = HashEncoder(settings=settings)
        self.asked: list[str] = []

    @property
    def config(self) -> EncoderConfig:
        return self._encoder.config

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.asked.extend(texts)
        return self._encoder.encode(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._encoder.count_tokens(texts)


def test_only_new_content_is_embedded(tmp_path: Path) -> None:
    first = CountingEncoder()
    CachedEncoder(first, tmp_path).encode(["a", "b"])
    second = CountingEncoder()
    cached = CachedEncoder(second, tmp_path)
    found = cached.encode([" b.", "c", "a", "c"])
    assert first.asked == ["a", "b"] and second.asked == ["c"]
    assert torch.equal(found, HashEncoder().encode(["b", "c", "a", "c"]))
    assert cached.encode([]).shape == (0, 32)
    assert cached.count_tokens(["a b"]) == [3] and cached.config == second.config


def test_encoders_do_not_mix(tmp_path: Path) -> None:
    CachedEncoder(HashEncoder(), tmp_path).encode(["a"])
    other = HashEncoder(settings=TextSettings(norm=1.0))
    assert CachedEncoder(other, tmp_path).encode(["a"]).norm() == pytest.approx(1.0)


def test_what_another_process_wrote_is_found_without_reopening(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    reader = CachedEncoder(encoder, tmp_path)
    CachedEncoder(HashEncoder(), tmp_path).encode(["a"])
    reader.encode(["a"])
    assert encoder.asked == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "not finite", "other names"])
def test_a_broken_file_is_computed_anew_with_a_warning(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    good = CachedEncoder(HashEncoder(), tmp_path).encode(["a"])
    (file,) = tmp_path.rglob("*.safetensors")
    if damage == "not finite":
        tensors = load_file(file)
        save_file(tensors | {"embeddings": tensors["embeddings"] * torch.nan}, file)
    elif damage == "other names":
        save_file({"x": torch.ones(1)}, file)
    else:
        file.write_bytes(file.read_bytes()[:-7] if damage == "truncated" else b"")
    encoder = CountingEncoder()
    with pytest.warns(T2LWarning, match=r"cannot be read .* and are computed anew"):
        found = CachedEncoder(encoder, tmp_path).encode(["a"])
    assert torch.equal(found, good) and encoder.asked == ["a"]
    CachedEncoder(encoder, tmp_path).encode(["a"])  # the file is whole again: no warning
    assert encoder.asked == ["a"]


def test_writers_in_other_processes_do_not_lose_rows(tmp_path: Path) -> None:
    code = (
        "import sys; from text_to_lora.encoders import load_encoder;"
        f"e = load_encoder('hash', cache_dir={str(tmp_path)!r});"
        "[e.encode([f'{sys.argv[1]} {i}', f'both {i}']) for i in range(10)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    texts = [f"{name} {i}" for name in ("one", "two", "both") for i in range(10)]
    encoder = CountingEncoder()
    assert torch.equal(CachedEncoder(encoder, tmp_path).encode(texts), HashEncoder().encode(texts))
    assert encoder.asked == []


def test_a_cut_description_is_warned_of_when_cached_too(tmp_path: Path) -> None:
    cached = CachedEncoder(HashEncoder(settings=TextSettings(max_tokens=2)), tmp_path)
    for _ in range(2):
        with pytest.warns(T2LWarning, match="read 2 of 4 tokens") as seen:
            cached.encode(["sort the words"])
        assert len(seen) == 1


def test_an_empty_description_keeps_its_position(tmp_path: Path) -> None:
    cached = load_encoder("hash", cache_dir=tmp_path)
    cached.encode(["a"])
    with pytest.raises(ConfigError, match="description 2 of 2 is empty"):
        cached.encode(["a", " "])


class NarrowEncoder(CountingEncoder):
    """Knows no digits."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        warn_unknown(texts, self.count_known(texts))
        return super().encode(texts)

    def count_known(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(sum(not c.isdigit() for c in text), len(text)) for text in texts]


def test_what_the_encoder_does_not_know_is_told_each_time(tmp_path: Path) -> None:
    cached = CachedEncoder(NarrowEncoder(), tmp_path)
    for _ in range(2):
        with pytest.warns(
            T2LWarning, match="knows 1 of 2 tokens of the description 'a1'"
        ) as caught:
            cached.encode(["a1"])
        assert len(caught) == 1
    assert read_tokens(cached, ["ab", "a1"])[1].tokens_unknown == 1
    assert read_tokens(CachedEncoder(CountingEncoder(), tmp_path), ["a1"]) == [Reading(1, 1, 0)]
