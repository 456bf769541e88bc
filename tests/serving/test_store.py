"""The store keeps what was written whole, within its bound; an alias stays where it points."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
import torch

from text_to_lora.errors import AdapterFormatError, ConfigError
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.serving import store as module
from text_to_lora.serving.store import AdapterStore, AliasError, StoreError, is_id, make_id

TEXTS = [f"Say {word}" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="session")
def adapters(t2l: TextToLora) -> dict[str, Adapters]:
    return {
        make_id({"text": text}): one
        for text, one in zip(TEXTS, t2l.generate(TEXTS).unbind(), strict=True)
    }


def fill(store: AdapterStore, adapters: dict[str, Adapters]) -> list[str]:
    for place, (name, adapter) in enumerate(adapters.items()):
        store.add(name, adapter)
        if name in store:
            os.utime(store._adapters / name, (place, place))
    return list(adapters)


def test_an_id_is_the_hash_of_its_facts() -> None:
    digest = hashlib.sha256(b'{"a":1,"b":"x"}').hexdigest()[:32]
    assert make_id({"a": 1, "b": "x"}) == make_id({"b": "x", "a": 1}) == f"t2l-{digest}"
    assert is_id(make_id({"a": 1})) and not is_id("t2l-../../x") and not is_id("t2l-" + "a" * 33)


def test_what_was_stored_is_read_after_a_restart(
    tmp_path: Path, t2l: TextToLora, adapters: dict[str, Adapters]
) -> None:
    names = fill(AdapterStore(tmp_path / "store"), adapters)
    store = AdapterStore(tmp_path / "store")
    assert store.ids() == names and len(store) == 4
    for name, adapter in adapters.items():
        loaded = store.load(name, t2l.spec)
        for key, tensor in adapter.weights.b.items():
            torch.testing.assert_close(loaded.b[key], tensor)
        assert store.provenance(name)["description"] == adapter.descriptions[0]


def test_the_least_recently_used_go_first_but_none_with_an_alias(
    tmp_path: Path, adapters: dict[str, Adapters]
) -> None:
    store = AdapterStore(tmp_path / "store", max_adapters=3)
    first, second, third, fourth = adapters
    fill(store, {name: adapters[name] for name in (first, second, third)})
    store.set_alias("mine", first)
    store.path(second)  # used now
    store.add(fourth, adapters[fourth])
    assert sorted(store.ids()) == sorted([first, second, fourth])
    for alias, name in (("two", second), ("four", fourth)):
        store.set_alias(alias, name)
    with pytest.raises(StoreError, match="holds 3 adapters and may hold 3, and all have an alias"):
        store.add(third, adapters[third])
    store.delete(second)
    store.add(third, adapters[third])
    assert store.find_alias("two") is None and store.aliases(first) == ["mine"]


def test_an_alias_is_never_pointed_at_another_adapter(
    tmp_path: Path, adapters: dict[str, Adapters]
) -> None:
    store = AdapterStore(tmp_path / "store")
    first, second, *_ = fill(store, adapters)
    store.set_alias("mine", first)
    store.set_alias("mine", first)
    with pytest.raises(AliasError, match=f"alias 'mine' is that of {first}; choose another"):
        store.set_alias("mine", second)
    for alias in ("", "../x", "A b", "a" * 65, first, ".hidden", "a/b"):
        with pytest.raises(AliasError, match="cannot be used; up to 64 of a-z"):
            store.set_alias(alias, second)
        assert store.find_alias(alias) is None


def test_a_folder_of_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigError, match="is no store of adapters; name a new folder"):
        AdapterStore(tmp_path)
    with pytest.raises(ConfigError, match="max-adapters is 0; 1 or more"):
        AdapterStore(tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


def test_leftovers_of_a_kill_are_removed_and_damage_is_told(
    tmp_path: Path, t2l: TextToLora, adapters: dict[str, Adapters]
) -> None:
    store = AdapterStore(tmp_path / "store")
    name, *_ = fill(store, adapters)
    old, new = (tmp_path / "store" / "adapters" / part for part in (".t2l-old.x", ".t2l-new.x"))
    old.mkdir()
    new.mkdir()
    past = time.time() - module._LEFTOVER - 1
    os.utime(old, (past, past))
    AdapterStore(tmp_path / "store")
    assert not old.exists() and new.exists()
    (store.path(name) / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterFormatError, match="truncated or corrupt"):
        store.load(name, t2l.spec)
