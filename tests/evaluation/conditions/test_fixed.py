"""One adapter for all rows: the trained one, and the mean of a library."""

from __future__ import annotations

from collections.abc import Callable

import torch

from text_to_lora.evaluation.conditions import Mean, Multitask, Setup
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Row


def test_the_multitask_adapter_serves_every_row(
    draw: Callable[..., LoraWeights],
    rows: list[Row],
    same: Callable[[LoraWeights, LoraWeights], bool],
) -> None:
    weights = draw(1, seed=3)
    multitask = Multitask(weights)
    assert multitask.plan(rows) == [Setup(adapter="")] * len(rows)
    assert same(multitask.adapters([""]), weights)


def test_the_mean_is_that_of_the_factors(library: AdapterLibrary, rows: list[Row]) -> None:
    mean = Mean(library)
    assert mean.plan(rows) == [Setup(adapter="")] * len(rows)
    weights = mean.adapters([""])
    assert weights.num_adapters == 1
    for side in ("a", "b"):
        for key, found in getattr(weights, side).items():
            total = torch.zeros_like(found[0])
            for name in library.names:
                total += getattr(library.adapter(name), side)[key][0]
            torch.testing.assert_close(found[0], total / len(library))  # order of the sum
    assert mean.about == {"library": library.fingerprint, "adapters": 6}
