"""HashEncoder: the same everywhere, near for texts that share words."""

from __future__ import annotations

import hashlib

import torch

from text_to_lora.encoders import HashEncoder


def test_the_embedding_is_the_mean_of_the_words_bytes() -> None:
    words = ["sort", "sort", "words", "."]
    rows = [[b - 127.5 for b in hashlib.shake_256(w.encode()).digest(16)] for w in words]
    mean = [sum(column) / 4 for column in zip(*rows, strict=True)]
    length = sum(x * x for x in mean) ** 0.5
    expected = torch.tensor([[4.0 * x / length for x in mean]])
    torch.testing.assert_close(HashEncoder(16).encode(["Sort sort WORDS"]), expected)


def test_texts_that_share_words_are_nearer() -> None:
    a, b, c = HashEncoder(256).encode(
        [
            "classify the review as positive or negative",
            "say whether the review is positive or negative",
            "translate this French sentence into English",
        ]
    )
    assert a @ b > 2 * abs(a @ c)
