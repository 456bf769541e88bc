"""EncoderConfig: checked when built, strict when read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from text_to_lora.encoders import EncoderConfig, HashEncoder
from text_to_lora.errors import ConfigError


@pytest.fixture
def config() -> EncoderConfig:
    return HashEncoder().config


def test_a_config_survives_its_dict(config: EncoderConfig) -> None:
    assert EncoderConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("kind", "bert", "kind is 'bert'; one of sentence-transformers, minilm, gte"),
        ("pooling", "max", "pooling is 'max'; one of mean, cls, last"),
        ("embedding_dim", 0, "embedding_dim is 0; a positive number"),
        ("max_tokens", True, "max_tokens is True; int is expected"),
        ("norm", float("nan"), "norm is nan; a positive number"),
        ("revision", 3, "revision is 3; str or NoneType is expected"),
    ],
)
def test_a_bad_field_is_named_with_its_value(
    config: EncoderConfig, field: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(config, **{field: value})


def test_missing_and_unknown_fields_are_named(config: EncoderConfig) -> None:
    payload = config.to_dict() | {"colour": "red"}
    del payload["norm"]
    with pytest.raises(
        ConfigError, match=r"missing fields \['norm'\], unknown fields \['colour'\]"
    ):
        EncoderConfig.from_dict(payload)
