"""t2l map and t2l neighbours: where descriptions and their adapters lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from text_to_lora.cli.common import (
    AsJson,
    Base,
    Data,
    Device,
    Model,
    echo_json,
    gather,
    load_generator,
    progress,
)
from text_to_lora.errors import needs_extra

if TYPE_CHECKING:
    from text_to_lora.analysis.maps import Point

Split = Annotated[str, typer.Option(help="Split of splits.json whose descriptions are used.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder that keeps embeddings between calls.")
]


def draw_map(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    model: Model = "embedded",
    base: Base = None,
    split: Split = "train",
    by: Annotated[
        Literal["category", "task"], typer.Option(help="What colours a description.")
    ] = "category",
    descriptions: Annotated[int, typer.Option(min=1, help="Descriptions a task.")] = 1,
    method: Annotated[
        Literal["pca", "tsne", "both"], typer.Option(help="How the plane is found.")
    ] = "both",
    perplexity: Annotated[
        float | None, typer.Option(help="Of t-SNE; default: a seventh of the points, 30 at most.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of t-SNE, resamples and shuffled labels.")] = 0,
    cache: Cache = None,
    device: Device = "cpu",
) -> None:
    """Draw descriptions and the adapters made of them side by side, PCA and t-SNE.

    Writes map.png and map.json: coordinates, and how often a description's nearest one has the same
    label, beside the same with labels shuffled. The base model is loaded only where the
    hypernetwork reads descriptions with it, or where one is named.

    \b
    Examples:
      t2l map --data data -o map
      t2l map --data data -o benchmarks --split benchmarks --by task --descriptions 3
    """
    from text_to_lora.analysis.maps import METHODS, make_map, points_of
    from text_to_lora.analysis.plots import plot_map
    from text_to_lora.evaluation.tables import show
    from text_to_lora.files import check_results, write_json
    from text_to_lora.tasks.folder import load_data_dir

    check_results(output, marker="map.json", names=("map.png",))
    points = points_of(load_data_dir(data, split=split), descriptions=descriptions)
    t2l = load_generator(model, base, device, cache_dir=cache)
    doing = f"embedding {len(points)} descriptions and generating their adapters"
    with needs_extra("eval", "a map"), progress(doing):
        result = make_map(
            points,
            t2l.encode,
            lambda texts: t2l.generate(texts).weights,
            by=by,
            methods=METHODS if method == "both" else (method,),
            perplexity=perplexity,
            seed=seed,
        )
    result["hypernet_fingerprint"] = t2l.fingerprint
    with needs_extra("eval", "a map"):
        plot_map(result, output / "map.png")
    write_json(output / "map.json", result)
    typer.echo(f"{output / 'map.png'}  {len(points)} descriptions")
    for space, measures in result["agreement"].items():
        for measure in ("neighbour", "silhouette"):
            value = measures[measure]
            typer.echo(
                f"{space} {measure}: {show(value)}, labels shuffled {value['shuffled']['mean']:.3f}, "
                f"p {value['p']:.3f}"
            )


def neighbours(
    data: Data,
    descriptions: Annotated[list[str], typer.Argument(help="Task descriptions.")],
    model: Model = "embedded",
    base: Base = None,
    split: Split = "train",
    per_task: Annotated[
        int, typer.Option("--descriptions", min=1, help="Descriptions a task that are compared.")
    ] = 1,
    count: Annotated[int, typer.Option("--count", min=1, help="Neighbours shown.")] = 5,
    cache: Cache = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Print what lies nearest to a description: tasks by embedding, and by generated adapter.

    \b
    Example:
      t2l neighbours "Decide whether a review is positive" --data data
    """
    from text_to_lora.analysis.maps import nearest_tasks, points_of
    from text_to_lora.tasks.folder import load_data_dir

    texts = gather(descriptions, None, "description", "the command line")
    points = points_of(load_data_dir(data, split=split), descriptions=per_task)
    t2l = load_generator(model, base, device, cache_dir=cache)
    with progress(f"embedding {len(points)} descriptions and generating their adapters"):
        nearest = nearest_tasks(
            texts, points, t2l.encode, lambda chunk: t2l.generate(chunk).weights, count=count
        )
    if as_json:
        payload = [
            {
                "description": text,
                **{space: [_point(*neighbour) for neighbour in near[space]] for space in near},
            }
            for text, near in zip(texts, nearest, strict=True)
        ]
        echo_json(payload)
        return
    for text, near in zip(texts, nearest, strict=True):
        typer.echo(text)
        for space, neighbours in near.items():
            typer.echo(f"  nearest by {'description' if space == 'descriptions' else 'adapter'}")
            for point, cosine in neighbours:
                typer.echo(
                    f"    {cosine:+.2f}  {point.task}  [{point.category}]  {point.text[:80]}"
                )


def _point(point: Point, cosine: float) -> dict[str, str | float]:
    return {
        "task": point.task,
        "category": point.category,
        "text": point.text,
        "cosine": cosine,
    }
