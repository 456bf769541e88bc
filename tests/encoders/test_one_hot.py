"""OneHotEncoder: tasks by name, each with a place of its own; kept with a hypernetwork."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora import TextToLora
from text_to_lora.encoders import EncoderConfig, HashEncoder, OneHotEncoder, load_encoder
from text_to_lora.errors import CheckpointError, ConfigError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups

NAMES = ("sort words", "count letters", "say yes", "say no", "spell it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hypernetwork that learned a vector for each of five tasks."""
    base = BaseModelRef("owner/base", None, "0" * 64, "llama")
    slots = [Slot(layer, "mlp.up_proj", 4, 6) for layer in range(2)]
    spec = LoraSpec(base, "model.layers", 2, 2, 4.0, False, tuple(make_groups(slots)))
    config = HypernetConfig("joint", len(NAMES), 8, 8, task_vector_dim=3)
    hypernet = Hypernetwork.from_config(
        config, spec, torch.Generator().manual_seed(0), as_lora=False
    )
    encoder = OneHotEncoder(NAMES).config
    return save_hypernet(
        tmp_path_factory.mktemp("named") / "hypernet", hypernet, encoder, training={}
    )


def test_a_name_gives_its_row_of_the_identity() -> None:
    rows = OneHotEncoder(NAMES).encode([" say yes ", "sort words", "say yes"])
    assert torch.equal(rows, torch.eye(5)[[2, 0, 2]])
    assert OneHotEncoder(NAMES).count_tokens(["say yes", "say no"]) == [1, 1]


def test_an_unknown_name_gets_the_nearest_and_some_that_are_known() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown task 'sya yes', nearest 'say yes'; .*names, not descriptions: sort words, "
        r"count letters, say yes, say no and 1 more",
    ):
        OneHotEncoder(NAMES).encode(["sort words", "sya yes"])
    with pytest.raises(ConfigError, match="description 1 of 1 is empty"):
        OneHotEncoder(NAMES).encode([" "])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ()}, "tasks has 0 names; 5 are expected of kind 'one-hot'"),
        ({"tasks": NAMES[:4]}, "tasks has 4 names; 5 are expected"),
        ({"tasks": ("a", "b", "a", "d", "e")}, "tasks has 'a' twice"),
        ({"tasks": ("a", " ", "c", "d", "e")}, "one name is empty"),
        ({"tasks": list(NAMES)}, r"a list \(each item a text\) is needed"),
        ({"kind": "hash"}, "tasks has 5 names; 0 are expected of kind 'hash'"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(OneHotEncoder(NAMES).config, **changes)


def test_a_hypernetwork_knows_its_tasks_by_name(folder: Path) -> None:
    weights = TextToLora.from_pretrained(folder).generate(["say no", "sort words"]).weights
    loaded = load_hypernet(folder)
    expected = loaded.hypernet(torch.eye(5)[[3, 0]])
    assert torch.equal(weights.a["mlp.up_proj"], expected.a["mlp.up_proj"])
    table = loaded.hypernet.backbone.task_vectors
    assert table is not None and table.weight.shape == (5, 3)
    # The vector of the task is all that the network reads of it.
    with torch.no_grad():
        table.weight[3] = table.weight[0]
    same = loaded.hypernet(torch.eye(5)[[3, 0]])
    assert torch.equal(same.a["mlp.up_proj"][0], same.a["mlp.up_proj"][1])


def test_damaged_names_are_refused_on_loading(folder: Path, tmp_path: Path) -> None:
    payload = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"tasks": NAMES[:4]}, "tasks has 4 names"),
        ({"tasks": "abcde"}, "tasks is 'abcde'; a list"),
        ({"tasks": [1, 2, 3, 4, 5]}, r"tasks is \(1, 2, 3, 4, 5\); a list"),
    ):
        payload["encoder"] |= change
        (tmp_path / "config.json").write_text(json.dumps(payload))
        with pytest.raises(CheckpointError, match=said):
            load_hypernet(tmp_path)


def test_a_stored_config_carries_the_names_in_their_order() -> None:
    config = OneHotEncoder(NAMES).config
    for other in (NAMES[::-1], NAMES[:4], (*NAMES[:4], "spell")):
        assert OneHotEncoder(other).config.fingerprint != config.fingerprint
    stored = EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert stored == config == OneHotEncoder(list(NAMES)).config
    assert torch.equal(load_encoder(stored).encode(["say no"]), torch.eye(5)[[3]])
    with pytest.raises(ConfigError, match="'one-hot' has fingerprint"):
        load_encoder(replace(stored, tasks=NAMES[::-1]))
    payload = HashEncoder().config.to_dict()
    assert "tasks" not in payload and len(payload) == 10  # the fields of version 1
    assert EncoderConfig.from_dict(payload).tasks == ()
