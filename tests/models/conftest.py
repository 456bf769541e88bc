"""A tiny base in the forms that a base model comes in: a folder, and a GGUF file inside a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguf_bases import CONFIG, package, save_tiny_gguf, save_wheel
from text_to_lora.models.smollm2 import PackagedBase


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """Content of the config.json of the model in the GGUF file."""
    return CONFIG


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, quantised as SmolLM2's file is."""
    return save_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


@pytest.fixture(scope="session")
def wheel(gguf_file: Path) -> Path:
    """A wheel that holds the GGUF file, and a module that must never be imported."""
    return save_wheel(gguf_file.parent / "wheels", gguf_file)


@pytest.fixture
def packaged(gguf_file: Path, wheel: Path) -> PackagedBase:
    """The pins of that wheel."""
    return package(wheel, gguf_file)
