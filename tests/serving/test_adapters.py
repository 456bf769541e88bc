"""A model name means one adapter; what is missing is generated in one pass and then remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.errors import ConfigError, T2LError
from text_to_lora.generate import Adapters, TextToLora
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.serving.adapters import AdapterPool, UnknownModelError
from text_to_lora.serving.store import AdapterStore


class Counting:
    """A hypernetwork that counts its passes and refuses some descriptions."""

    def __init__(self, t2l: TextToLora) -> None:
        self._t2l = t2l
        self.passes: list[list[str]] = []

    def generate(self, descriptions: Sequence[str]) -> Adapters:
        self.passes.append(list(descriptions))
        if any("bad" in text for text in descriptions):
            raise ConfigError("a bad description")
        return self._t2l.generate(descriptions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._t2l, name)


@pytest.fixture
def counting(described_hypernet_folder: Path) -> Counting:
    return Counting(TextToLora.from_pretrained(described_hypernet_folder))


@pytest.fixture
def origins() -> list[str]:
    return []


@pytest.fixture
def pool(counting: Counting, tmp_path: Path, origins: list[str]) -> AdapterPool:
    store = AdapterStore(tmp_path / "store")
    return AdapterPool(counting, store, in_memory=3, note=origins.append)  # type: ignore[arg-type]


def same(fetched: LoraWeights | T2LError, wanted: LoraWeights) -> None:
    assert isinstance(fetched, LoraWeights), fetched
    for key in wanted.b:
        torch.testing.assert_close(fetched.delta(key), wanted.delta(key))


def test_missing_adapters_are_generated_in_one_pass_then_remembered(
    pool: AdapterPool, counting: Counting, origins: list[str]
) -> None:
    names = ["t2l:Say one", "t2l:Say two", "t2l: Say one "]
    refs = [pool.resolve(name) for name in names]
    assert refs[0] == refs[2]
    fetched = pool.fetch(refs)
    assert counting.passes == [["Say one", "Say two"]]
    wanted = counting._t2l.generate(["Say one", "Say two"]).weights.unbind()
    for weights, expected in zip(fetched, [*wanted, wanted[0]], strict=True):
        same(weights, expected)
    pool.fetch([pool.resolve(refs[0].id)])
    fresh = AdapterPool(counting, pool.store, note=origins.append)  # type: ignore[arg-type]
    same(fresh.fetch([refs[1]])[0], wanted[1])
    assert len(counting.passes) == 1
    assert origins == ["generated"] * 3 + ["memory", "store"]


def test_an_id_depends_on_text_strength_and_hypernetwork(
    pool: AdapterPool, idle_hypernet_folder: Path, tmp_path: Path
) -> None:
    t2l = TextToLora.from_pretrained(idle_hypernet_folder)
    ids = {
        pool.sentence("Say one").id,
        pool.sentence("Say one", 2.0).id,
        pool.sentence("Say two").id,
    }
    other = AdapterPool(t2l, AdapterStore(tmp_path / "other")).sentence("Say one").id
    assert len(ids | {other}) == 4


def test_strength_and_blend_are_exact(pool: AdapterPool) -> None:
    one, two = (pool.resolve(f"t2l:Say {word}") for word in ("one", "two"))
    first, second = pool.fetch([one, two])
    assert isinstance(first, LoraWeights) and isinstance(second, LoraWeights)
    pool.store.set_alias("second", two.id)
    blend = pool.resolve(f"blend:{one.id}=0.7, second=-0.3")
    (blended, twice, stored) = pool.fetch(
        [blend, replace(one, factor=2.0), pool.sentence("Say one", 2.0)]
    )
    assert isinstance(blended, LoraWeights)
    for key in first.b:
        torch.testing.assert_close(
            blended.delta(key), 0.7 * first.delta(key) - 0.3 * second.delta(key)
        )
    same(twice, first.scale(2.0))
    same(stored, first.scale(2.0))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nobody", UnknownModelError, "the model 'nobody' does not exist; name the base"),
        ("../../etc/passwd", UnknownModelError, "does not exist"),
        ("t2l-" + "0" * 32, UnknownModelError, "does not exist"),
        ("t2l:  ", ConfigError, "the description is empty"),
        ("t2l:" + "x" * 2001, ConfigError, "has 2001 characters; 2000 are allowed"),
        ("blend:", ConfigError, "needs a share; write blend:ID=0.7,ID=0.3"),
        ("blend:nobody=0.5", UnknownModelError, "'nobody' does not exist"),
        ("blend:nobody=nan", ConfigError, "needs a share"),
    ],
)
def test_a_name_that_means_nothing_is_told(
    pool: AdapterPool, name: str, error: type[T2LError], message: str
) -> None:
    with pytest.raises(error, match=message):
        pool.resolve(name)


def test_a_bad_strength_and_too_many_parts_are_told(pool: AdapterPool) -> None:
    for strength in (0.0, float("nan"), 1e3):
        with pytest.raises(ConfigError, match="strength is"):
            pool.sentence("Say one", strength)
    ref = pool.sentence("Say one")
    pool.fetch([ref])
    with pytest.raises(ConfigError, match="9 adapters in one blend; 8 are allowed"):
        pool.resolve("blend:" + ",".join([f"{ref.id}=0.1"] * 9))


def test_one_description_that_fails_fails_alone(pool: AdapterPool) -> None:
    bad, good = pool.fetch([pool.sentence("bad"), pool.sentence("Say one")])
    assert str(bad) == "a bad description"
    assert isinstance(good, LoraWeights)


def test_too_unlike_the_training_is_refused_and_not_stored(pool: AdapterPool) -> None:
    near = replace(pool.sentence("Answer in capitals"), min_similarity=0.99)
    far = replace(pool.sentence("zebra quilt"), min_similarity=0.99)
    fetched = pool.fetch([near, far])
    assert isinstance(fetched[0], LoraWeights)
    assert "below 0.99" in str(fetched[1]) and far.id not in pool.store
    pool.fetch([replace(far, min_similarity=None)])
    assert "below 0.99" in str(pool.fetch([far])[0])


def test_a_removed_adapter_is_unknown_and_a_sentence_is_made_again(
    pool: AdapterPool, counting: Counting
) -> None:
    ref = pool.sentence("Say one")
    pool.fetch([ref])
    pool.store.delete(ref.id)
    pool.forget(ref.id)
    assert "was removed" in str(pool.fetch([replace(ref, description=None)])[0])
    assert isinstance(pool.fetch([ref])[0], LoraWeights)
    assert len(counting.passes) == 2


def test_new_adapters_may_push_out_those_that_are_asked_for_beside(
    counting: Counting, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "small", max_adapters=2)
    pool = AdapterPool(counting, store, in_memory=1)  # type: ignore[arg-type]
    old = [pool.sentence(f"Say {word}") for word in ("one", "two")]
    pool.fetch(old)
    new = [pool.sentence(f"Say {word}") for word in ("three", "four", "five")]
    fetched = pool.fetch([*new, *old])
    wanted = counting._t2l.generate([str(ref.description) for ref in [*new, *old]]).weights
    for weights, expected in zip(fetched, wanted.unbind(), strict=True):
        same(weights, expected)
    assert len(store) == 2
