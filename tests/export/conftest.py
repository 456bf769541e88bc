"""Configurations of tiny bases."""

from __future__ import annotations

import pytest
from transformers import PreTrainedConfig

from tiny_exports import FAMILIES


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> PreTrainedConfig:
    """Configuration of a tiny base of each family in turn."""
    return FAMILIES[request.param]()


@pytest.fixture
def llama_config() -> PreTrainedConfig:
    """Configuration of a tiny Llama."""
    return FAMILIES["llama"]()
