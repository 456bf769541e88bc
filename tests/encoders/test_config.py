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
    ("field", "value", "message"),
    [
        ("kind", 3, "kind is 3; a text is needed"),
        ("pooling", "max", "pooling is 'max'; one of mean, cls, last"),
        ("embedding_dim", 0, "embedding_dim is 0; a number above 0"),
        ("max_tokens", True, "max_tokens is True; a whole number"),
        ("norm", float("nan"), "norm is nan; a finite number"),
        ("revision", 3, "revision is 3; a text or nothing"),
    ],
)
def test_a_bad_field_is_named_with_its_value(
    config: EncoderConfig, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **{field: value})
    payload = config.to_dict() | {"colour": "red"}
    del payload["norm"]
    with pytest.raises(ConfigError, match=r"fields \['norm'\], unknown fields \['colour'\]"):
        EncoderConfig.from_dict(payload)
