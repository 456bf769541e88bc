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
_SEED = 20250606  # of the signs of sketches


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
    """Give the factors A and B of the adapters of texts as vectors, [texts, numbers].

    Adapters that are too many or too large for memory are sketched; the second value tells whether
    they were.
    """
    with torch.no_grad():
        one = generate(texts[:1])
    numbers = sum(tensor.numel() for tensor in (*one.a.values(), *one.b.values()))
    sketched = numbers * len(texts) > MOST_NUMBERS
    return _each_part(generate, texts, _sketch if sketched else _flatten), sketched


def _each_part(
    generate: Generate, texts: Sequence[str], vectors: Callable[[LoraWeights], Tensor]
) -> Tensor:
    """Vectors of the adapters of texts, of which few are in memory at once, [texts, numbers]."""
    parts = []
    for start in range(0, len(texts), ADAPTERS_AT_ONCE):
        with torch.no_grad():
            parts.append(vectors(generate(texts[start : start + ADAPTERS_AT_ONCE])).cpu())
    return torch.cat(parts)


def _flatten(weights: LoraWeights) -> Tensor:
    factors = (*weights.a.values(), *weights.b.values())
    return torch.cat([factor.flatten(1).float() for factor in factors], dim=1)


def _sketch(weights: LoraWeights) -> Tensor:
    return sketch(weights, SKETCHED)


def sketch(weights: LoraWeights, size: int) -> Tensor:
    """Add up the factors A and B of each adapter with random signs, fp32 [adapters, size].

    Equal numbers of equal specs get equal signs, so that sketches of different calls compare. The
    product of two sketches is that of the two adapters' factors in expectation; its error falls with
    the root of `size`. Needs one pass over the factors and no matrix.

    Source: count sketch (Charikar, Chen and Farach-Colton 2002).
    """
    generator = torch.Generator().manual_seed(_SEED)
    summed = torch.zeros(weights.num_adapters, size, device=weights.device)
    place = 0
    for tensors in (weights.a, weights.b):
        for tensor in tensors.values():
            flat = tensor.detach().flatten(1).float()  # [adapters, numbers]
            signs = torch.randint(0, 2, flat.shape[1:], generator=generator, dtype=torch.int8)
            signed = flat * (2 * signs - 1).to(flat.device)
            after = -(place + signed.shape[1]) % size
            signed = functional.pad(signed, (place, after))
            summed += signed.reshape(len(signed), -1, size).sum(1)
            place = size - after if after else 0  # the next tensor goes on where this one ends
    return summed


def standardise(vectors: Tensor) -> Tensor:
    """Take the mean off every number and divide by its deviation; one that never changes is 0."""
    centred = vectors - vectors.mean(0)
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > 0, centred / spread.clamp_min(torch.finfo(spread.dtype).tiny), 0.0)


def project(vectors: Tensor, method: Method, *, perplexity: float, seed: int = 0) -> Floats:
    """Lay vectors out in the plane, [points, 2].

    pca: along the two directions of largest spread; the sign makes the largest coordinate positive
    tsne: of the first 50 principal components, by scikit-learn, starting from the first two

    Raises ConfigError when there are too few points.
    """
    if len(vectors) < SMALLEST:
        raise ConfigError(f"{len(vectors)} points are too few for a map; give {SMALLEST} or more")
    centred = (vectors - vectors.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    components = left * values
    components = components * components.gather(0, components.abs().argmax(0)[None]).sign()
    plane: Floats = components[:, :2].numpy()
    if method == "pca":
        return plane
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, learning_rate="auto")
    plane = tsne.fit_transform(components[:, :50].numpy()).astype(numpy.float64)
    return plane


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
    point_names = list(map(str, range(count)))
    unit = functional.normalize((vectors - vectors.mean(0)).double(), dim=-1)
    distances = (1 - unit @ unit.mT).cpu().numpy()
    groups = numpy.array(point_names if apart is None else list(apart))
    seen = groups[:, None] != groups[None]
    places = numpy.unique(list(labels), return_inverse=True)[1]
    has = ((places[:, None] == places[None]) & seen).any(axis=1)
    if not has.any():
        raise ConfigError("no point has another of its label; ask for more descriptions or tasks")
    nearest = numpy.where(seen, distances, numpy.inf).argmin(axis=1)
    judged_names = numpy.array(point_names)[has].tolist()

    def measure(places: NDArray[numpy.intp]) -> dict[str, Floats]:
        hits = (places[nearest] == places).astype(float)
        silhouettes = _silhouettes(distances, seen, places)
        return {"neighbour": hits[has], "silhouette": silhouettes[has]}

    units = point_names if resampled is None else list(resampled)
    bootstrap = GroupBootstrap(dict(zip(point_names, units, strict=True)), seed=seed)
    rng = numpy.random.default_rng(seed)
    shuffled = [measure(rng.permutation(places)) for _ in range(permutations)]
    report: dict[str, Any] = {"points": int(has.sum()), "labels": len(set(labels))}
    for name, values in measure(places).items():
        mean = float(values.mean())
        means = [float(numpy.nanmean(drawn[name])) for drawn in shuffled]
        report[name] = {
            **bootstrap.mean(dict(zip(judged_names, values.tolist(), strict=True))).to_dict(),
            "point_mean": mean,
            "shuffled": {
                "mean": float(numpy.mean(means)),
                "high": float(numpy.percentile(means, 97.5)),
            },
            "p": (1 + sum(drawn >= mean for drawn in means)) / (1 + permutations),
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
    sketches = _each_part(generate, known, _sketch)
    centre = sketches.mean(0)
    spaces = {
        "descriptions": (encode(texts).cpu().float(), encode(known).cpu().float()),
        "adapters": (_each_part(generate, texts, _sketch) - centre, sketches - centre),
    }
    neighbours: list[dict[str, list[tuple[Point, float]]]] = [{} for _ in texts]
    for space, (vectors, others) in spaces.items():
        cosines = functional.normalize(vectors, dim=-1) @ functional.normalize(others, dim=-1).mT
        for nearest, row in zip(neighbours, cosines, strict=True):
            by_task: dict[str, tuple[Point, float]] = {}
            for place in row.argsort(descending=True).tolist():
                by_task.setdefault(points[place].task, (points[place], float(row[place])))
            nearest[space] = list(by_task.values())[:count]
    return neighbours


def _silhouettes(
    distances: Floats, seen: NDArray[numpy.bool_], places: NDArray[numpy.intp]
) -> Floats:
    """Silhouette of each point; NaN where there is no other of its label, or no other label.

    Not scikit-learn's, which looks at all points; here each point has others that it does not see.
    """
    member = numpy.eye(places.max() + 1)[places]  # [points, labels]
    rows = numpy.arange(len(places))
    with numpy.errstate(invalid="ignore", divide="ignore"):
        means = (numpy.where(seen, distances, 0) @ member) / (seen @ member)
        inside = means[rows, places]
        means[rows, places] = numpy.nan
        outside = numpy.where(numpy.isnan(means), numpy.inf, means).min(axis=1)
        values = (outside - inside) / numpy.maximum(inside, outside)
    silhouettes: Floats = numpy.where(numpy.isfinite(values), values, numpy.nan)
    return silhouettes
