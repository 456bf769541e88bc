"""The base's tokenizer keeps case, lines and spacing over an uncased vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from text_to_lora.training.base_tokenizer import (
    ANSWER,
    END,
    INPUT,
    TASK,
    UNKNOWN,
    build_tokenizer,
)

WORDS = ["[PAD]", "[UNK]", "[SEP]", "the", "film", "was", "good", "nasa", "hello", "world", "##s"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the one file that the vocabulary is read from."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*WORDS, *letters, *(f"##{x}" for x in letters), *"()[]{}.,;:!?\"'-/$%“”"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    payload = {"model": {"vocab": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps(payload), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(encoder_folder: Path) -> PreTrainedTokenizerFast:
    texts = ["the film was good", "hello world", "the films"]
    return build_tokenizer(encoder_folder, texts, vocab_size=200)[0]


@pytest.mark.parametrize(
    "text",
    [
        "The film was GOOD.",
        "Hello, World! NASA",
        "a, b; c: d (e) [f] well-known it's",
        "3.14 and 1,000 or $5 or 50%",
        "a - b , c",
        '{"answer": "YES"}',
        'He said "hello" twice.',
        "one\ntwo\nThree",
        "I A b",
        "1. Good",
        "[good]",
    ],
)
def test_decoding_gives_back_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_mixed_case_inside_a_word_is_the_known_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("McDonald", add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == "mcdonald"


def test_text_outside_ascii_does_not_break_it(tokenizer: PreTrainedTokenizerFast) -> None:
    # widths of bytes and characters differ here; matches of width zero crashed the library
    ids = tokenizer("Kawésqar – “Café” ‘x’, naïve.", add_special_tokens=False).input_ids
    assert "cafe" in tokenizer.decode(ids).lower()


def test_every_token_names_the_encoder_row_it_starts_from(encoder_folder: Path) -> None:
    tokenizer, origin = build_tokenizer(encoder_folder, ["the film"], vocab_size=180)
    full = json.loads((encoder_folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(origin) == list(range(len(tokenizer)))
    assert origin[tokenizer.convert_tokens_to_ids("film")] == full["film"]
    assert origin[tokenizer.convert_tokens_to_ids(END)] == full["[SEP]"]
    assert origin[tokenizer.convert_tokens_to_ids(UNKNOWN)] == full["[UNK]"]


def test_chat_template_marks_description_input_and_answer(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    user = {"role": "user", "content": "the film"}
    system = {"role": "system", "content": "Good"}
    answer = {"role": "assistant", "content": "good"}
    bare = loaded.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    full = loaded.apply_chat_template([system, user, answer], tokenize=False)
    assert bare == f"{INPUT} the film {ANSWER}"
    assert full == f"{TASK} Good {INPUT} the film {ANSWER} good{END}"
