"""HypernetConfig: JSON form, and every value that cannot work."""

from __future__ import annotations

import json
from typing import Any

import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.hypernet import HypernetConfig


def test_defaults_are_those_of_the_papers_mistral_models() -> None:
    config = HypernetConfig(head="joint", embedding_dim=1024)
    assert (config.latent_size, config.head_in_size, config.dropout) == (128, 512, 0.05)


def test_json_form_reads_back() -> None:
    config = HypernetConfig(head="rank", embedding_dim=7, output="delta", delta_scaling=9.0)
    assert HypernetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_width_of_task_vectors_is_stored_only_where_there_is_one() -> None:
    plain = HypernetConfig(head="joint", embedding_dim=5)
    assert "task_vector_dim" not in plain.to_dict()  # as files of before have it
    config = HypernetConfig(head="joint", embedding_dim=5, task_vector_dim=3)
    assert HypernetConfig.from_dict(config.to_dict()) == config != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "L"}, "head is 'L'; one of joint, shared, rank"),
        ({"output": "raw"}, "output is 'raw'; one of direct, zscore, delta"),
        ({"embedding_dim": 0}, "embedding_dim is 0; a whole number of 1 or more"),
        ({"embedding_dim": True}, "embedding_dim is True; a whole number"),
        ({"head_in_size": 1.5}, "head_in_size is 1.5; a whole number"),
        ({"latent_size": 30}, "latent_size is 30; a multiple of 4"),
        ({"dropout": 1.0}, "dropout is 1.0; a number from 0 to below 1"),
        ({"dropout": "0.1"}, "dropout is '0.1'; a number"),
        ({"task_vector_dim": 0}, "task_vector_dim is 0; a whole number of 1 or more"),
        ({"delta_scaling": 0}, "delta_scaling is 0; a number above 0"),
        ({"delta_scaling": float("nan")}, "delta_scaling is nan; a number above 0"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"head": "joint", "embedding_dim": 8}
    with pytest.raises(ConfigError) as caught:
        HypernetConfig(**fields | changes)
    assert message in str(caught.value)


def test_fields_that_are_missing_or_unknown_are_named() -> None:
    payload = HypernetConfig(head="joint", embedding_dim=8).to_dict()
    del payload["dropout"]
    with pytest.raises(ConfigError, match=r"missing fields \['dropout'\], unknown .*\['depth'\]"):
        HypernetConfig.from_dict(payload | {"depth": 3})
    with pytest.raises(ConfigError, match=r"hypernet is \[1\]; an object is needed"):
        HypernetConfig.from_dict([1])  # type: ignore[arg-type]
