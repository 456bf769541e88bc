"""Sketches keep products of adapters, and compare across calls."""

from __future__ import annotations

import pytest
import torch

from text_to_lora.analysis.maps import sketch
from text_to_lora.lora import LoraSpec, LoraWeights
from tiny_models import make_config, random_adapters


@pytest.fixture
def spec() -> LoraSpec:
    return LoraSpec.from_config(make_config(), targets=["q_proj", "v_proj"], rank=4)


def test_products_of_sketches_are_those_of_factors(
    spec: LoraSpec, generator: torch.Generator
) -> None:
    weights = random_adapters(spec, 4, generator)
    flat = torch.cat([t.flatten(1) for t in (*weights.a.values(), *weights.b.values())], dim=1)
    sketches = sketch(weights, 4096)
    lengths = flat.norm(dim=1)
    errors = (sketches @ sketches.mT - flat @ flat.mT) / torch.outer(lengths, lengths)
    assert errors.abs().max() < 4 / 4096**0.5  # four standard deviations of a count sketch


def test_a_sketch_does_not_depend_on_the_other_adapters(
    spec: LoraSpec, generator: torch.Generator
) -> None:
    weights = random_adapters(spec, 3, generator)
    sketches = sketch(weights, 256)
    assert sketches.shape == (3, 256)
    for place, one in enumerate(weights.unbind()):
        torch.testing.assert_close(sketch(one, 256)[0], sketches[place])


def test_a_sketch_is_linear_in_the_factors(spec: LoraSpec, generator: torch.Generator) -> None:
    one, other = random_adapters(spec, 2, generator).unbind()
    summed = LoraWeights(
        spec,
        {key: one.a[key] + 2 * other.a[key] for key in one.a},
        {key: one.b[key] + 2 * other.b[key] for key in one.b},
    )
    torch.testing.assert_close(sketch(summed, 256), sketch(one, 256) + 2 * sketch(other, 256))
