"""CachedEncoder: each description is embedded once, by any number of processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.encoders import CachedEncoder, EncoderConfig, HashEncoder, TextSettings
from text_to_lora.encoders.base import Reading, read_tokens, warn_unread
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
    vectors = cached.encode([" b.", "c", "a", "c"])
    assert first.asked == ["a", "b"] and second.asked == ["c"]
    assert torch.equal(vectors, HashEncoder().encode(["b", "c", "a", "c"]))
    assert cached.encode([]).shape == (0, 32)
    assert cached.count_tokens(["a b"]) == [3] and cached.config == second.config
    other = HashEncoder(settings=TextSettings(norm=1.0))  # of another configuration
    assert CachedEncoder(other, tmp_path).encode(["a"]).norm() == pytest.approx(1.0)


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


class NarrowEncoder(CountingEncoder):
    """Knows no digits."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        warn_unread(self, texts)
        return super().encode(texts)

    def count_known(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(sum(not c.isdigit() for c in text), len(text)) for text in texts]


def test_what_is_cut_unknown_or_empty_is_told_of_cached_descriptions_too(tmp_path: Path) -> None:
    cached = CachedEncoder(NarrowEncoder(TextSettings(max_tokens=2)), tmp_path)
    for _ in range(2):
        with pytest.warns(T2LWarning) as caught:
            cached.encode(["a1", "sort the words"])
        messages = list(dict.fromkeys(str(warning.message) for warning in caught))
        assert len(messages) == 2
        assert messages[0].startswith("the encoder read 2 of 4 tokens of the description 'sort")
        assert "knows 1 of 2 tokens of the description 'a1'" in messages[1]
    assert read_tokens(cached, ["ab", "a1"])[1].tokens_unknown == 1
    assert read_tokens(CachedEncoder(CountingEncoder(), tmp_path), ["a1"]) == [Reading(1, 1, 0)]
    with pytest.raises(ConfigError, match="description 2 of 2 is empty"):
        cached.encode(["a", " "])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-7]),
    "empty": lambda file: file.write_bytes(b""),
    "not finite": lambda file: save_file(
        {name: tensor * torch.nan for name, tensor in load_file(file).items()}, file
    ),
    "other names": lambda file: save_file({"x": torch.ones(1)}, file),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_computed_anew_with_a_warning(tmp_path: Path, damage: str) -> None:
    expected = CachedEncoder(HashEncoder(), tmp_path).encode(["a"])
    (file,) = tmp_path.rglob("*.safetensors")
    DAMAGES[damage](file)
    encoder = CountingEncoder()
    with pytest.warns(T2LWarning, match=r"cannot be read .* and are computed anew"):
        embeddings = CachedEncoder(encoder, tmp_path).encode(["a"])
    assert torch.equal(embeddings, expected) and encoder.asked == ["a"]
    CachedEncoder(encoder, tmp_path).encode(["a"])  # the file is whole again: no warning
    assert encoder.asked == ["a"]
