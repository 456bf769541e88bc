"""HypernetConfig and TokenConfig: JSON form, and every value that cannot work."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.hypernet import HypernetConfig
from text_to_lora.hypernet.config import TokenConfig

PLAIN = HypernetConfig(head="joint", embedding_dim=8)
TOKENS = TokenConfig(hidden_size=32, direct=("mlp.down_proj",))


def test_defaults_are_those_of_the_papers_mistral_models() -> None:
    assert (PLAIN.latent_size, PLAIN.head_in_size, PLAIN.dropout) == (128, 512, 0.05)


@pytest.mark.parametrize(
    "changes",
    [{}, {"output": "delta", "delta_scaling": 9.0}, {"task_vector_dim": 3}, {"tokens": TOKENS}],
)
def test_json_form_reads_back_and_holds_options_only_where_set(changes: dict[str, Any]) -> None:
    config = replace(PLAIN, **changes)
    payload = json.loads(json.dumps(config.to_dict()))
    assert HypernetConfig.from_dict(payload) == config
    for name in ("task_vector_dim", "tokens"):  # as files of before have it
        assert (name in payload) == (name in changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "L"}, "head is 'L'; one of joint, shared, rank is needed"),
        ({"output": "raw"}, "output is 'raw'; one of direct, zscore, delta"),
        ({"embedding_dim": 0}, "embedding_dim is 0; a number above 0"),
        ({"embedding_dim": True}, "embedding_dim is True; a whole number"),
        ({"head_in_size": 1.5}, "head_in_size is 1.5; a whole number"),
        ({"latent_size": 30}, "latent_size is 30; a multiple of 4"),
        ({"dropout": 1.0}, "dropout is 1.0; a number from 0 to below 1"),
        ({"dropout": "0.1"}, "dropout is '0.1'; a finite number"),
        ({"task_vector_dim": 0}, "task_vector_dim is 0; a number above 0"),
        ({"delta_scaling": 0}, "delta_scaling is 0; a number above 0"),
        ({"delta_scaling": float("nan")}, "delta_scaling is nan; a finite number"),
        ({"tokens": 3}, "tokens is 3; an object or nothing"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(PLAIN, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "attention_size is 128; a multiple of heads=3"),
        ({"max_tokens": 0}, "max_tokens is 0; a number above 0"),
        ({"direct": ("",)}, r"direct is ('',); paths of modules"),
        ({"direct": "mlp"}, "direct is 'mlp'; a list (each item a text)"),
    ],
)
def test_sizes_of_tokens_that_cannot_work_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(TOKENS, **changes)
    assert f"hypernet.tokens: {message}" in str(caught.value)


def test_fields_that_are_missing_or_unknown_are_named() -> None:
    payload = replace(PLAIN, tokens=TOKENS).to_dict()
    with pytest.raises(ConfigError, match=r"hypernet.tokens: .*unknown fields \['depth'\]"):
        HypernetConfig.from_dict(payload | {"tokens": payload["tokens"] | {"depth": 1}})
    del payload["dropout"]
    with pytest.raises(ConfigError, match=r"missing fields \['dropout'\], unknown .*\['depth'\]"):
        HypernetConfig.from_dict(payload | {"depth": 3})
    with pytest.raises(ConfigError, match=r"hypernet is \[1\]; an object is needed"):
        HypernetConfig.from_dict([1])  # type: ignore[arg-type]
