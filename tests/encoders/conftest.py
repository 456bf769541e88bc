"""A tiny word tokenizer, and descriptions that the encoders' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT = "classify the review as positive or negative sort words in capitals answer"


@pytest.fixture
def texts() -> list[str]:
    """Descriptions of unlike lengths, not sorted by them."""
    return [
        "Classify the sentiment of the review as positive or negative",
        "Sort the words!",
        "You are given a passage about history, with several names of people and of places in it, "
        "and a question about it; answer in capitals, with the name of one person only.",
        "Translate.",
        "  Réponds « oui » ou « non » ?  ",
    ]


@pytest.fixture
def bert_tokenizer() -> Tokenizer:
    """Words to ids, [CLS] text [SEP]."""
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", ".", *TEXT.split()]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


@pytest.fixture
def bert_tokenizer_file(tmp_path: Path, bert_tokenizer: Tokenizer) -> Path:
    """The same as a file."""
    path = tmp_path / "tokenizer.json"
    bert_tokenizer.save(str(path))
    return path
