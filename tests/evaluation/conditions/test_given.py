"""One adapter for all rows; retrieval against a loop; oracles by name, never trained on scored rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import Setup
from text_to_lora.evaluation.conditions.given import Mean, Multitask, Oracle, Retrieval
from text_to_lora.library.library import AdapterLibrary, LibraryEntry
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row

Same = Callable[[LoraWeights, LoraWeights], bool]


def test_one_adapter_serves_every_row(
    draw: Callable[..., LoraWeights], library: AdapterLibrary, rows: list[Row], same: Same
) -> None:
    weights = draw(1, seed=3)
    for condition in (Multitask(weights), Mean(library)):
        assert condition.plan(rows) == [Setup(adapter="")] * len(rows)
    assert same(Multitask(weights).adapters([""]), weights)
    mean = Mean(library).adapters([""])
    assert mean.num_adapters == 1
    for side in ("a", "b"):
        for key, factor in getattr(mean, side).items():
            every = torch.cat([getattr(library.adapter(name), side)[key] for name in library.names])
            torch.testing.assert_close(factor[0], every.mean(0))
    assert Mean(library).about == {"library": library.fingerprint, "adapters": 6}


def naive_nearest(library: AdapterLibrary, text: str) -> str:
    """The task of the description with the largest cosine, one pair at a time."""
    encode = load_encoder("hash").encode
    query = encode([text])[0].tolist()
    best, nearest = -math.inf, ""
    for entry in library.entries:
        for description in entry.descriptions:
            other = encode([description])[0].tolist()
            dot = sum(x * y for x, y in zip(query, other, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in query) * sum(y * y for y in other))
            if cosine > best + 1e-6:  # float32 against float64
                best, nearest = cosine, entry.task
    return nearest


def test_retrieval_finds_the_task_of_the_nearest_description(
    library: AdapterLibrary, rows: list[Row], same: Same
) -> None:
    retrieval = Retrieval(library, load_encoder("hash").encode, encoder="hash")
    texts = [row.task.definition for row in rows]
    texts += [text for entry in library.entries for text in entry.descriptions]
    texts += ["Sort what letters there are.", "Tell prices."]
    assert retrieval.find(texts) == [naive_nearest(library, text) for text in texts]
    keys = [setup.adapter for setup in retrieval.plan(rows)]
    assert keys == [naive_nearest(library, row.task.definition) for row in rows]
    assert len(set(keys)) > 1
    weights = retrieval.adapters(["birds", "rivers"])
    for name, adapter in zip(("birds", "rivers"), weights.unbind(), strict=True):
        assert same(adapter, library.adapter(name))
    assert (retrieval.about["adapters"], retrieval.about["descriptions"]) == (6, 11)


def test_only_the_first_descriptions_are_compared(library: AdapterLibrary) -> None:
    encode = load_encoder("hash").encode
    text = library.entry("letters").descriptions[1]
    assert Retrieval(library, encode).find([text]) == ["letters"]
    first = Retrieval(library, encode, descriptions=1)
    assert first.about["descriptions"] == 6


def test_lengths_of_embeddings_do_not_count(library: AdapterLibrary) -> None:
    def encode(texts: Sequence[str]) -> torch.Tensor:
        """Long vectors for rivers, whatever is asked; the direction says birds."""
        rows = {"rivers": [9.0, 9.0], "birds": [1.0, 0.1]}
        return torch.tensor(
            [next((v for k, v in rows.items() if k in text), [0.0, 1.0]) for text in texts]
        )

    assert Retrieval(library, encode).find(["birds"]) == ["birds"]


def test_tasks_without_descriptions_cannot_be_found(
    draw: Callable[..., LoraWeights], library: AdapterLibrary
) -> None:
    encode = load_encoder("hash").encode
    mute = AdapterLibrary(draw(2), [LibraryEntry("a"), LibraryEntry("b")])
    with pytest.raises(ConfigError, match="none of the library's 2 tasks has a description"):
        Retrieval(mute, encode)
    half = AdapterLibrary(draw(2), [LibraryEntry("a"), LibraryEntry("b", ("Sort poems.",))])
    assert Retrieval(half, encode).find(["anything"]) == ["b"]


def test_oracles_are_the_tasks_own_and_tasks_without_are_left_out(
    library: AdapterLibrary, rows: list[Row], same: Same
) -> None:
    oracle = Oracle(library)
    keys = [None if setup is None else setup.adapter for setup in oracle.plan(rows)]
    assert keys == [None if row.task.name == "coins" else row.task.name for row in rows]
    weights = oracle.adapters(["poems", "birds"])
    assert same(weights.unbind()[1], library.adapter("birds"))


def with_record(library: AdapterLibrary, **data: object) -> AdapterLibrary:
    return AdapterLibrary(library.weights, library.entries, training={"data": data})


def test_oracles_that_saw_scored_rows_are_refused(library: AdapterLibrary, rows: list[Row]) -> None:
    seen = with_record(library, data_dir="data", split="train")
    with pytest.raises(ConfigError, match=r"trained on split 'train'.*'poems' is of split 'dev'"):
        Oracle(seen).plan(rows)
    coins = [row for row in rows if row.task.name == "coins"]
    assert Oracle(seen).plan(coins) == [None] * len(coins)
    of_dev = with_record(library, data_dir="data", split="dev")
    assert Oracle(of_dev).plan(rows)[0] is not None
    folders = with_record(library, data_dir=None, split="train", folders=["mine"])
    assert Oracle(folders).plan(rows)[0] is not None  # their tasks have splits of their own
