"""Preparing, scaling, cutting and pooling, shared by all encoders."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.encoders import HashEncoder, TextSettings, prepare
from text_to_lora.encoders.base import FileTokenizer, pad_right, pool
from text_to_lora.errors import ConfigError, T2LWarning


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("  Sort the words \n", "Sort the words."),
        ("Sort the words.", "Sort the words."),
        ("Is it true?", "Is it true?"),
        ("Add 2", "Add 2"),
        ("Sortiere nach Größ", "Sortiere nach Größ."),
    ],
)
def test_a_full_stop_follows_a_letter_only(text: str, prepared: str) -> None:
    assert prepare(text) == prepared
    assert prepare(text, add_full_stop=False) == text.strip()


def test_every_embedding_has_the_norm_of_the_config(texts: list[str]) -> None:
    for settings, norm in ((TextSettings(), 8.0), (TextSettings(norm=3.0), 3.0)):
        embeddings = HashEncoder(64, settings).encode(texts)
        assert embeddings.shape == (len(texts), 64) and embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.full((len(texts),), norm))


def test_rows_keep_their_order_in_batches_by_length(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HashEncoder()
    alone = torch.cat([encoder.encode([text]) for text in texts])
    monkeypatch.setattr(HashEncoder, "batch_size", 2)
    assert torch.equal(encoder.encode(texts), alone)


def test_a_cut_description_is_warned_of_with_both_counts() -> None:
    encoder = HashEncoder(settings=TextSettings(max_tokens=3))
    with pytest.warns(
        T2LWarning, match="read 3 of 5 tokens of the description 'sort all the words'"
    ):
        cut = encoder.encode(["sort all the words"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(
            cut, HashEncoder(settings=TextSettings(add_full_stop=False)).encode(["sort all the"])
        )


def test_a_prefix_is_read_and_counted() -> None:
    plain, prefixed = HashEncoder(), HashEncoder(settings=TextSettings(prefix="Query : "))
    assert torch.equal(prefixed.encode(["sort"]), plain.encode(["Query : sort"]))
    assert prefixed.count_tokens(["sort", "sort it"]) == [4, 5]
    assert plain.config.fingerprint != prefixed.config.fingerprint


def test_pooling_reads_no_padding(generator: torch.Generator) -> None:
    ids = [[5, 6, 7], [8], [9, 10]]
    tokens, mask = pad_right(ids, "cpu")
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0]]
    hidden = torch.randn(3, 3, 4, generator=generator)
    poolings: Any = {"cls": lambda x: x[0], "last": lambda x: x[-1], "mean": lambda x: x.mean(0)}
    for name, one in poolings.items():
        expected = torch.stack([one(hidden[i, : len(row)]) for i, row in enumerate(ids)])
        torch.testing.assert_close(pool(hidden, mask, name), expected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", " \t", "b"], r"description 2 of 3 is empty \(' \\t'\)"),
        ("Sort the words", "not the one string 'Sort the words'"),
        (["a", "\ud83c"], "description 2 of 2 has half of a surrogate pair"),
    ],
)
def test_what_is_no_description_is_refused_with_its_position(texts: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HashEncoder().encode(texts)
    with pytest.raises(ConfigError, match="the description is empty"):
        prepare(" \n")
    with pytest.raises(ConfigError, match="max_tokens is 513; 'hash' reads at most 512"):
        HashEncoder(settings=TextSettings(max_tokens=513))
    assert HashEncoder().encode([]).shape == (0, 32)


def test_a_tokenizer_file_keeps_the_last_special_token_in_a_cut(
    bert_tokenizer_file: Path, tmp_path: Path
) -> None:
    tokenizer = FileTokenizer(bert_tokenizer_file)
    (whole,), (cut,) = tokenizer.ids(["sort the words"]), tokenizer.ids(["sort the words"], 4)
    assert cut == [*whole[:3], whole[-1]]
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "none.json"):
        with pytest.raises(ConfigError, match=f"{name}' is no tokenizer"):
            FileTokenizer(tmp_path / name)
