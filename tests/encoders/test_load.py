"""load_encoder: names, stored configs, and what is imported."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import text_to_lora
from text_to_lora.encoders import (
    CachedEncoder,
    EncoderConfig,
    HashEncoder,
    TextSettings,
    load_encoder,
)
from text_to_lora.errors import ConfigError

CONFIG = HashEncoder().config
SOURCES = Path(text_to_lora.__path__[0])


def test_a_stored_config_gives_the_same_vectors() -> None:
    settings = TextSettings(prefix="Query: ", add_full_stop=False, norm=2.0, max_tokens=40)
    stored = HashEncoder(48, settings).config
    loaded = load_encoder(stored)
    assert loaded.config == stored
    assert torch.equal(loaded.encode(["a b"]), HashEncoder(48, settings).encode(["a b"]))


def test_a_name_takes_settings_and_a_cache(tmp_path: Path) -> None:
    encoder = load_encoder("hash", settings=TextSettings(norm=1.0), cache_dir=tmp_path)
    assert isinstance(encoder, CachedEncoder) and encoder.config.norm == 1.0
    assert encoder.config.embedding_dim == 32


def test_remote_code_is_off_in_every_source_file() -> None:
    """Said to every Auto class: without a word transformers asks whoever sits at the terminal."""
    for file in SOURCES.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        for line in source.splitlines():
            assert "trust_remote_code" not in line or "trust_remote_code=False" in line, file
        loads = re.findall(r"\bAuto\w+\.from_(?:pretrained|config)\b", source)
        assert source.count("trust_remote_code=False") >= len(loads), file


@pytest.mark.parametrize("kind", ["language-model", "sentence-transformers", "gte"])
def test_code_in_a_models_folder_does_not_run_even_when_the_user_would_say_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "own", "auto_map": names, "architectures": ["OwnModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    with pytest.raises(ConfigError) as caught:
        load_encoder(f"{kind}:{folder}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("", "name is ''; 'minilm' or a model is expected"),
        ("language-model", "'language-model' needs a name; write language-model:NAME"),
        ("sentence-transformers", "needs a name; write sentence-transformers:NAME"),
        ("one-hot", "comes with a hypernetwork"),
        ("one-hot:mine", "comes with a hypernetwork"),
        (replace(CONFIG, kind="bert"), "kind is 'bert'; one of sentence-transformers, minilm"),
        (
            replace(CONFIG, fingerprint="abc"),
            f"'hash' has fingerprint {CONFIG.fingerprint}.*trained with abc; load",
        ),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(which: str | EncoderConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder(which)
    with pytest.raises(ConfigError, match="belong to the stored config"):
        load_encoder(CONFIG, settings=TextSettings())
    assert load_encoder(replace(CONFIG, fingerprint="")).config == CONFIG  # unknown: not checked
