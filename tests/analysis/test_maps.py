"""Maps keep what they lay out, and their figures tell clusters from chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy
import pytest
import torch
from sklearn.metrics import silhouette_samples
from torch import Tensor

from text_to_lora.analysis import maps
from text_to_lora.analysis.maps import (
    Point,
    adapter_vectors,
    agreement,
    make_map,
    nearest_tasks,
    points_of,
    project,
    standardise,
    usual_perplexity,
)
from text_to_lora.errors import ConfigError
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.tasks.task import Example, Metric, Task
from tiny_models import make_config, random_adapters


@pytest.fixture
def clusters(generator: torch.Generator) -> tuple[Tensor, list[str]]:
    """Four clusters of six points that are far apart, and the label of each point."""
    centres = 4 * torch.randn(4, 12, generator=generator)
    points = centres.repeat_interleave(6, 0) + torch.randn(24, 12, generator=generator) / 4
    return points, [f"c{place // 6}" for place in range(24)]


def test_pca_keeps_distances_of_what_lies_in_a_plane(generator: torch.Generator) -> None:
    plane = torch.randn(10, 2, generator=generator).double()
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator).double())
    laid = project(plane @ turn[:2], "pca", perplexity=3)
    torch.testing.assert_close(
        torch.cdist(torch.tensor(laid), torch.tensor(laid)), torch.cdist(plane, plane)
    )


def test_tsne_keeps_clusters_and_is_the_same_again(clusters: tuple[Tensor, list[str]]) -> None:
    points, labels = clusters
    laid = project(points, "tsne", perplexity=4)
    again = project(points, "tsne", perplexity=4)
    numpy.testing.assert_array_equal(laid, again)
    result = agreement(torch.tensor(laid), labels, permutations=20)
    assert result["neighbour"]["mean"] == 1.0


def test_silhouette_and_neighbours_are_those_of_sklearn_and_a_loop(
    clusters: tuple[Tensor, list[str]], generator: torch.Generator
) -> None:
    points, labels = clusters
    points = points + 3 * torch.randn(points.shape, generator=generator)  # clusters that overlap
    result = agreement(points, labels, permutations=50)
    centred = (points - points.mean(0)).double().numpy()
    expected = silhouette_samples(centred, labels, metric="cosine").mean()
    assert result["silhouette"]["mean"] == pytest.approx(expected)
    hits = 0
    for place, point in enumerate(centred):
        cosines = [
            -2
            if other == place
            else point
            @ centred[other]
            / numpy.linalg.norm(point)
            / numpy.linalg.norm(centred[other])
            for other in range(24)
        ]
        hits += labels[int(numpy.argmax(cosines))] == labels[place]
    assert result["neighbour"]["mean"] == pytest.approx(hits / 24)
    assert 0 < hits < 24


def test_shuffled_labels_are_at_chance_and_clusters_are_not(
    clusters: tuple[Tensor, list[str]],
) -> None:
    points, labels = clusters
    result = agreement(points, labels, permutations=200)
    assert result["neighbour"]["mean"] == 1.0
    assert result["neighbour"]["p"] == pytest.approx(1 / 201)
    assert result["neighbour"]["shuffled"]["mean"] == pytest.approx(5 / 23, abs=0.05)
    mixed = [labels[place % 4 * 6] for place in range(24)]  # each label once in every cluster
    other = agreement(points, mixed, permutations=200)
    assert other["neighbour"]["p"] > 0.05


def test_points_of_one_group_are_no_neighbours(clusters: tuple[Tensor, list[str]]) -> None:
    points, labels = clusters
    halves = [f"{label}{place % 2}" for place, label in enumerate(labels)]
    assert agreement(points, labels, apart=halves, permutations=5)["neighbour"]["mean"] == 1.0
    with pytest.raises(ConfigError, match="no point has another of its label"):
        agreement(points, labels, apart=labels, permutations=5)


def test_standardised_numbers_have_deviation_one_or_are_zero(generator: torch.Generator) -> None:
    vectors = 3 + 2 * torch.randn(9, 4, generator=generator)
    vectors[:, 2] = 7.0
    standardised = standardise(vectors)
    torch.testing.assert_close(standardised[:, [0, 1, 3]].std(0, correction=0), torch.ones(3))
    assert torch.equal(standardised[:, 2], torch.zeros(9))


def _tasks() -> list[Task]:
    return [
        Task(
            f"task{place}",
            f"Say {place}.",
            (f"Answer {place}.",),
            (Example("x", ("y",), 0),),
            Metric("exact_match"),
            group=f"g{place}",
            category="even" if place % 2 == 0 else "odd",
        )
        for place in range(6)
    ]


@pytest.fixture
def spaces() -> tuple[Callable[[Sequence[str]], Tensor], Callable[[Sequence[str]], LoraWeights]]:
    """Embeddings and adapters that depend on the digit of a text, a little on its words."""
    noise = torch.Generator().manual_seed(3)
    spec = LoraSpec.from_config(make_config(), targets=["q_proj", "v_proj"], rank=2)
    adapters = random_adapters(spec, 6, torch.Generator().manual_seed(0))
    directions = torch.randn(6, 8, generator=noise)

    def encode(texts: Sequence[str]) -> Tensor:
        rows = [directions[int(t[-2])] + 0.01 * len(t) for t in texts]
        return torch.stack(rows)

    def generate(texts: Sequence[str]) -> LoraWeights:
        chosen = adapters.select([int(t[-2]) for t in texts])
        return chosen.scale(torch.tensor([1 + len(t) / 100 for t in texts]))

    return encode, generate


def test_a_map_has_both_spaces_and_every_point(spaces: tuple[Callable, Callable]) -> None:  # type: ignore[type-arg]
    points = points_of(_tasks(), descriptions=2)
    assert [point.text for point in points[:2]] == ["Say 0.", "Answer 0."]
    result = make_map(points, *spaces, by="task")
    for space in ("descriptions", "adapters"):
        for method in ("pca", "tsne"):
            assert numpy.shape(result["coordinates"][space][method]) == (12, 2)
        assert result["agreement"][space]["neighbour"]["mean"] == 1.0  # own other description
    by_category = make_map(points, *spaces, methods=("pca",))
    assert {point["label"] for point in by_category["points"]} == {"even", "odd"}
    assert not by_category["sketched"]


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)


def test_large_adapters_are_sketched_and_keep_their_cosines(
    spaces: tuple[Callable, Callable],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"Say {place}." for place in range(6)]
    whole, sketched = adapter_vectors(spaces[1], texts)
    assert not sketched
    monkeypatch.setattr(maps, "MOST_NUMBERS", 10)
    short, sketched = adapter_vectors(spaces[1], texts)
    assert sketched and short.shape == (6, maps.SKETCHED)
    torch.testing.assert_close(cosines(short), cosines(whole), atol=4 / maps.SKETCHED**0.5, rtol=0)


def test_neighbours_of_a_description_are_of_the_task_with_its_words(
    spaces: tuple[Callable, Callable],  # type: ignore[type-arg]
) -> None:
    points = points_of(_tasks(), descriptions=2)
    (result,) = nearest_tasks(["Give 4."], points, *spaces, count=3)
    for space in ("descriptions", "adapters"):
        near = result[space]
        assert near[0][0].task == "task4"
        assert len({point.task for point, _ in near}) == 3  # each task once
        assert [cosine for _, cosine in near] == sorted((c for _, c in near), reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 3}, "3 points are too few for a map; give 8 or more"),
        ({"perplexity": 40.0}, "perplexity is 40 for 12 points; give a number from 1 to 11"),
        ({"category": "one"}, "all points are of category 'one'; a map needs two or more"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(
    spaces: tuple[Callable, Callable],  # type: ignore[type-arg]
    change: dict[str, object],
    message: str,
) -> None:
    points = points_of(_tasks(), descriptions=2)[: change.get("points", 12)]  # type: ignore[misc]
    if "category" in change:
        points = [Point(p.text, p.task, p.group, "one") for p in points]
    with pytest.raises(ConfigError, match=message):
        make_map(points, *spaces, perplexity=change.get("perplexity"))  # type: ignore[arg-type]


def test_perplexity_of_the_papers_figure() -> None:
    assert [usual_perplexity(count) for count in (8, 30, 672)] == [2, 4, 30]
