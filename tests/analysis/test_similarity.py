"""Similarities against naive loops and numpy's own correlation."""

from __future__ import annotations

import numpy
import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.analysis.similarity import (
    correlate_pairs,
    factor_cosines,
    pair_values,
    vector_cosines,
)
from text_to_lora.errors import ConfigError
from text_to_lora.lora import LoraSpec, LoraWeights, delta_cosines

COUNT = 9
GROUPS = ["a", "a", "b", "c", "c", "c", "d", "e", "f"]


@pytest.fixture(scope="module")
def weights() -> LoraWeights:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    spec = LoraSpec.from_config(config, targets=["q_proj", "down_proj"], rank=3)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(COUNT, *shape, generator=generator) + 1  # the mean is not zero

    return LoraWeights(
        spec,
        {g.key: draw(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


@pytest.fixture(scope="module")
def similarities() -> tuple[torch.Tensor, torch.Tensor]:
    """Two symmetric matrices that go together a little."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(COUNT, COUNT, generator=generator)
    second = torch.randn(COUNT, COUNT, generator=generator) + 0.5 * first
    return first + first.mT, second + second.mT


def _cosine(left: numpy.ndarray, right: numpy.ndarray) -> float:
    return float(left @ right / numpy.sqrt((left @ left) * (right @ right)))


def _flat(weights: LoraWeights) -> numpy.ndarray:
    tensors = [*weights.a.values(), *weights.b.values()]
    return numpy.stack(
        [numpy.concatenate([t[i].numpy().ravel() for t in tensors]) for i in range(COUNT)]
    ).astype(numpy.float64)


def test_factor_cosines_are_those_of_the_flattened_factors(weights: LoraWeights) -> None:
    flat, cosines = _flat(weights), factor_cosines(weights)
    for i in range(COUNT):
        for j in range(COUNT):
            assert cosines[i, j].item() == pytest.approx(_cosine(flat[i], flat[j]), abs=1e-12)


def test_centred_factor_cosines_leave_the_mean_adapter_out(weights: LoraWeights) -> None:
    flat = _flat(weights)
    flat -= flat.mean(axis=0)
    cosines = factor_cosines(weights, centred=True)
    assert cosines[2, 5].item() == pytest.approx(_cosine(flat[2], flat[5]), abs=1e-6)
    assert cosines[2, 5].abs() < factor_cosines(weights)[2, 5].abs()


def test_vector_cosines_are_pairwise_and_zero_vectors_give_zero() -> None:
    vectors = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]])
    expected = [[1.0, 0.96, 0.0], [0.96, 1.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(vector_cosines(vectors), torch.tensor(expected).double())


def test_another_factoring_of_one_update_changes_the_factors_alone(weights: LoraWeights) -> None:
    signs = torch.tensor([1.0, -1.0, 1.0])
    turned = LoraWeights(
        weights.spec,
        {key: torch.cat([a[:1], a[:1] * signs[:, None]]) for key, a in weights.a.items()},
        {key: torch.cat([b[:1], b[:1] * signs]) for key, b in weights.b.items()},
    )
    assert delta_cosines(turned)[0, 1].item() == pytest.approx(1)
    assert factor_cosines(turned)[0, 1].item() < 0.9


def test_pair_values_name_each_pair_once() -> None:
    matrix = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 3.0], [2.0, 3.0, 9.0]])
    assert pair_values(matrix).tolist() == [1.0, 2.0, 3.0]


def _pairs(matrix: torch.Tensor, across: bool = False) -> list[float]:
    return [
        float(matrix[i, j])
        for i in range(COUNT)
        for j in range(i + 1, COUNT)
        if not across or GROUPS[i] != GROUPS[j]
    ]


@pytest.mark.parametrize("across", [False, True])
def test_correlations_are_those_of_numpy_over_the_pairs(
    similarities: tuple[torch.Tensor, torch.Tensor], across: bool
) -> None:
    x, y = (_pairs(matrix, across) for matrix in similarities)
    found = correlate_pairs(*similarities, GROUPS, across_groups=across, resamples=20)
    assert found.pearson.pairs == len(x) == (36 if not across else 32)
    assert found.pearson.value == pytest.approx(numpy.corrcoef(x, y)[0, 1])
    ranks = [numpy.argsort(numpy.argsort(values)) for values in (x, y)]  # no ties here
    assert found.spearman.value == pytest.approx(numpy.corrcoef(*ranks)[0, 1])


def test_intervals_are_percentiles_over_resampled_groups(
    similarities: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Each resample written out as a list of pairs; copies of a group make no pairs of their own."""
    left, right = similarities
    groups = [name for name in "abc" for _ in range(3)]
    resamples, names = 50, sorted(set(groups))
    drawn = numpy.random.default_rng(3).integers(0, len(names), size=(resamples, len(names)))
    values = []
    for draw in drawn:
        members = [
            (copy, task)
            for copy, place in enumerate(draw)
            for task, group in enumerate(groups)
            if group == names[place]
        ]
        pairs = [
            (task, other)
            for i, (copy, task) in enumerate(members)
            for other_copy, other in members[i + 1 :]
            if copy == other_copy or groups[task] != groups[other]
        ]
        x, y = ([float(matrix[pair]) for pair in pairs] for matrix in (left, right))
        values.append(numpy.corrcoef(x, y)[0, 1])
    found = correlate_pairs(left, right, groups, resamples=resamples, seed=3).pearson
    assert [found.low, found.high] == pytest.approx(numpy.percentile(values, [2.5, 97.5]).tolist())


def test_equal_similarities_share_their_ranks(
    similarities: tuple[torch.Tensor, torch.Tensor],
) -> None:
    left = similarities[0].round()
    found = correlate_pairs(left, left.exp(), GROUPS, resamples=20)  # monotonous, not linear
    assert found.spearman.value == pytest.approx(1)
    assert found.pearson.value < 0.99


def test_what_cannot_be_correlated_is_refused(
    similarities: tuple[torch.Tensor, torch.Tensor],
) -> None:
    left, right = similarities
    with pytest.raises(ConfigError, match=r"\(9, 9\).*\[8, 8\] twice is needed"):
        correlate_pairs(left, right, GROUPS[:8])
    with pytest.raises(ConfigError, match="36 pairs of 1 source groups are too few"):
        correlate_pairs(left, right, ["a"] * COUNT)
    with pytest.raises(ConfigError, match="same for all pairs"):
        correlate_pairs(left, torch.ones(COUNT, COUNT), GROUPS)
