"""Maps: task embeddings and the adapters made of them, in the plane, and who is next to whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from text_to_lora.analysis.sketch import sketch
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.tasks.task import Task

Floats = NDArray[numpy.float64]
Generate = Callable[[Sequence[str]], LoraWeights]
Encode = Callable[[Sequence[str]], Tensor]
Method = Literal["pca", "tsne"]
METHODS: tuple[Method, ...] = ("pca", "tsne")
By = Literal["category", "task"]

FORMAT, VERSION = "text-to-lora map", 1
ADAPTERS_AT_ONCE = 32
MOST_NUMBERS = 2**26  # of all adapters together; above, adapters are sketched: 256 MiB in fp32
SKETCHED = 4096
PERMUTATIONS = 1000
SMALLEST = 8  # points; t-SNE of fewer shows nothing
UNNAMED = "no category"


@dataclass(frozen=True)
class Point:
    """A description on a map, with the task that it is of."""

    text: str
    task: str
    group: str
    category: str


def points_of(tasks: Sequence[Task], *, descriptions: int = 1) -> list[Point]:
    """Give the first descriptions of each task as points."""
    return [
        Point(text, task.name, group_of(task), task.category or UNNAMED)
        for task in tasks
        for text in task.descriptions[:descriptions]
    ]


def adapter_vectors(generate: Generate, texts: Sequence[str]) -> tuple[Tensor, bool]:
    """Generate adapters and give the factors A and B of each as one vector, [texts, size].

    Where all of them together are more than MOST_NUMBERS, sketches of SKETCHED numbers stand for
    them, which keep products within about 1/√SKETCHED. Tells whether that was so.
    """
    parts: list[Tensor] = []
    sketched: bool | None = None
    for start in range(0, len(texts), ADAPTERS_AT_ONCE):
        with torch.no_grad():
            weights = generate(texts[start : start + ADAPTERS_AT_ONCE]).detach()
        tensors = [*weights.a.values(), *weights.b.values()]
        if sketched is None:
            numbers = sum(tensor[0].numel() for tensor in tensors)
            sketched = numbers * len(texts) > MOST_NUMBERS
        flat = torch.cat([tensor.flatten(1).float() for tensor in tensors], dim=1)
        parts.append(sketch(weights, SKETCHED) if sketched else flat)
    return torch.cat(parts).cpu(), bool(sketched)


def standardise(vectors: Tensor) -> Tensor:
    """Take the mean off every number and divide by its deviation; one that never changes is 0."""
    centred = vectors - vectors.mean(0)
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > 0, centred / spread.clamp_min(torch.finfo(spread.dtype).tiny), 0.0)


def project(vectors: Tensor, method: Method, *, perplexity: float, seed: int = 0) -> Floats:
    """Lay vectors out in the plane, [points, 2].

    pca: along the two directions of largest spread; the sign makes the largest coordinate positive
    tsne: of the first 50 principal components, by scikit-learn, starting from the first two

    Raises ConfigError when there are too few points, or scikit-learn is not installed.
    """
    if len(vectors) < SMALLEST:
        raise ConfigError(f"{len(vectors)} points are too few for a map; give {SMALLEST} or more")
    centred = (vectors - vectors.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    components = left * values
    components = components * components.gather(0, components.abs().argmax(0)[None]).sign()
    if method == "pca":
        plane: Floats = components[:, :2].numpy()
        return plane
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"t-SNE needs the package {error.name!r}; pip install 'text-to-lora[eval]', or ask for "
            "pca alone"
        ) from None
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, learning_rate="auto")
    laid: Floats = tsne.fit_transform(components[:, :50].numpy()).astype(numpy.float64)
    return laid


def usual_perplexity(points: int) -> float:
    """Give 4 for the 30 points of the paper's figure, a seventh of more, and at most 30.

    Source: Text-to-LoRA (arXiv 2506.06105), Figure 5.
    """
    return float(max(2, min(30, points // 7)))


def make_map(
    points: Sequence[Point],
    encode: Encode,
    generate: Generate,
    *,
    by: By = "category",
    methods: Sequence[Method] = METHODS,
    perplexity: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Lay out the embeddings of descriptions and their adapters, and measure how labels cluster.

    by: the label of a point, its task's category or the task itself. By category, a point's
        neighbours and its cluster are looked for outside its own source group: tasks of one data set
        are alike whatever their category. By task there is no such exclusion.

    Raises ConfigError when there are too few points or labels.
    """
    texts = [point.text for point in points]
    labels = [point.category if by == "category" else point.task for point in points]
    if len(set(labels)) < 2:
        raise ConfigError(f"all points are of {by} {labels[0]!r}; a map needs two or more")
    chosen = usual_perplexity(len(points)) if perplexity is None else perplexity
    if not 1 <= chosen < len(points):
        raise ConfigError(
            f"perplexity is {chosen:g} for {len(points)} points; give a number from 1 to "
            f"{len(points) - 1}"
        )
    flat, sketched = adapter_vectors(generate, texts)
    spaces = {"descriptions": encode(texts).cpu().float(), "adapters": flat}
    groups = [point.group for point in points] if by == "category" else None
    result: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "by": by,
        "perplexity": chosen,
        "seed": seed,
        "sketched": sketched,
        "coordinates": {},
        "agreement": {},
    }
    tasks = [point.task for point in points]
    for name, vectors in spaces.items():
        if name == "adapters":
            vectors = standardise(vectors)
        result["coordinates"][name] = {
            method: project(vectors, method, perplexity=chosen, seed=seed).round(4).tolist()
            for method in methods
        }
        result["agreement"][name] = agreement(
            vectors, labels, apart=groups, resampled=groups or tasks, seed=seed
        )
    result["points"] = [
        {"text": p.text, "task": p.task, "group": p.group, "label": label}
        for p, label in zip(points, labels, strict=True)
    ]
    return result


def agreement(
    vectors: Tensor,
    labels: Sequence[str],
    *,
    apart: Sequence[str] | None = None,
    resampled: Sequence[str] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Tell how far labels follow from places, by cosine, beside the same with labels shuffled.

    neighbour: share of points whose nearest one has their label
    silhouette: mean over points of (b - a) / max(a, b), a being the mean distance to points of the
        same label and b that to the nearest other label's
    apart: group of each point; others of its group are not looked at. None looks at all.
    resampled: what the intervals resample, a name for each point; None: the points
    Points that have no other of their label to be near to are left out.

    Raises ConfigError when no point is left.
    Source: silhouette, Rousseeuw (1987).
    """
    count = len(labels)
    centred = vectors - vectors.mean(0)
    unit = functional.normalize(centred.double(), dim=-1)
    distances = (1 - unit @ unit.mT).cpu().numpy()
    groups = list(map(str, range(count))) if apart is None else list(apart)
    seen = numpy.array([[a != b for b in groups] for a in groups])
    numpy.fill_diagonal(seen, False)
    names = sorted(set(labels))
    own = numpy.array([names.index(label) for label in labels])
    has = ((own[:, None] == own[None]) & seen).any(axis=1)
    if not has.any():
        raise ConfigError("no point has another of its label; ask for more descriptions or tasks")
    nearest = numpy.where(seen, distances, numpy.inf).argmin(axis=1)

    def measure(places: NDArray[numpy.intp]) -> tuple[Floats, Floats]:
        hits = (places[nearest] == places).astype(float)
        return hits, _silhouettes(distances, seen, places, len(names))

    hits, silhouettes = measure(own)
    units = list(map(str, range(count))) if resampled is None else list(resampled)
    bootstrap = GroupBootstrap({str(i): unit for i, unit in enumerate(units)}, seed=seed)
    rng = numpy.random.default_rng(seed)
    drawn: tuple[list[float], list[float]] = ([], [])
    for _ in range(permutations):
        for values, means in zip(measure(rng.permutation(own)), drawn, strict=True):
            means.append(float(numpy.nanmean(values[has])))
    report: dict[str, Any] = {"points": int(has.sum()), "labels": len(names)}
    for name, values, means in zip(
        ("neighbour", "silhouette"), (hits, silhouettes), drawn, strict=True
    ):
        known = {str(i): float(values[i]) for i in numpy.flatnonzero(has)}
        interval = bootstrap.mean(known)
        mean = float(numpy.mean(list(known.values())))
        report[name] = {
            **interval.to_dict(),
            "point_mean": mean,
            "shuffled": {
                "mean": float(numpy.mean(means)),
                "high": float(numpy.percentile(means, 97.5)),
            },
            "p": (1 + sum(m >= mean for m in means)) / (1 + permutations),
        }
    return report


def nearest_tasks(
    texts: Sequence[str],
    points: Sequence[Point],
    encode: Encode,
    generate: Generate,
    *,
    count: int = 5,
) -> list[dict[str, list[tuple[Point, float]]]]:
    """Find the tasks nearest to each description: by embedding, and by generated adapter.

    Cosine of embeddings; cosine of factors minus their mean over the points, by sketch. A task with
    several points counts once, with its nearest.
    """
    known = [point.text for point in points]
    sketches = _sketches(generate, known)
    centre = sketches.mean(0)
    vectors = {
        "descriptions": (encode(texts).cpu().float(), encode(known).cpu().float()),
        "adapters": (_sketches(generate, texts) - centre, sketches - centre),
    }
    cosines = {
        space: functional.normalize(own, dim=-1) @ functional.normalize(others, dim=-1).mT
        for space, (own, others) in vectors.items()
    }
    found: list[dict[str, list[tuple[Point, float]]]] = []
    for place, _ in enumerate(texts):
        near = {}
        for space, values in cosines.items():
            best: dict[str, tuple[Point, float]] = {}
            for other in values[place].argsort(descending=True).tolist():
                best.setdefault(points[other].task, (points[other], float(values[place, other])))
            near[space] = list(best.values())[:count]
        found.append(near)
    return found


def _sketches(generate: Generate, texts: Sequence[str]) -> Tensor:
    parts = []
    for start in range(0, len(texts), ADAPTERS_AT_ONCE):
        with torch.no_grad():
            parts.append(sketch(generate(texts[start : start + ADAPTERS_AT_ONCE]), SKETCHED).cpu())
    return torch.cat(parts)


def _silhouettes(
    distances: Floats, seen: NDArray[numpy.bool_], places: NDArray[numpy.intp], labels: int
) -> Floats:
    """Silhouette of each point; NaN where there is no other of its label, or no other label."""
    member = numpy.eye(labels)[places]  # [points, labels]
    counts = seen @ member
    sums = numpy.where(seen, distances, 0) @ member
    with numpy.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    rows = numpy.arange(len(places))
    inside = means[rows, places]
    means[rows, places] = numpy.nan
    outside = numpy.where(numpy.isnan(means), numpy.inf, means).min(axis=1)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        values = (outside - inside) / numpy.maximum(inside, outside)
    silhouettes: Floats = numpy.where(numpy.isfinite(values), values, numpy.nan)
    return silhouettes
