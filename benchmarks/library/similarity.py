"""Similarity of adapters beside similarity of their descriptions, over all pairs of a library.

    python benchmarks/library/similarity.py --library LIBRARY --data DIR

Appendix D's form. One cell for each way of comparing adapters: factors, the cosine of A and B
flattened; centred, the same of what differs from the mean adapter, since the oracles start from one
A; delta, the cosine of the whole ΔW. Against the cosine of mean description embeddings. Pearson and
Spearman over all pairs and over pairs of unlike source groups, with 95% intervals by resampling
source groups, and a plot each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from common import EMBEDDINGS, PLOTS, WORK, Experiment, parser

from text_to_lora.analysis.plots import plot_pairs
from text_to_lora.analysis.similarity import (
    correlate_pairs,
    factor_cosines,
    pair_values,
    vector_cosines,
)
from text_to_lora.encoders import load_encoder
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.lora import LoraWeights, delta_cosines

CELLS: dict[str, Callable[[LoraWeights], torch.Tensor]] = {
    "factors": factor_cosines,
    "centred": lambda weights: factor_cosines(weights, centred=True),
    "delta": delta_cosines,
}
LABELS = {
    "factors": "cosine of the factors A, B",
    "centred": "cosine of the factors minus their mean",
    "delta": "cosine of ΔW",
}


def main() -> None:
    """Compare what is not compared yet."""
    arguments = parser(__doc__, "similarity", rows=1)
    arguments.add_argument("--encoder", default="minilm", help="text encoder (default minilm)")
    arguments.add_argument("--descriptions", type=int, default=16, help="a task (default 16)")
    arguments.add_argument("--work", type=Path, default=WORK, help="folder that keeps embeddings")
    arguments.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots")
    options = arguments.parse_args()
    experiment = Experiment(options)
    library = experiment.library
    tasks = experiment.named(library.names)
    groups = [group_of(task) for task in tasks]

    @cache
    def described() -> torch.Tensor:
        """Cosine between mean description embeddings."""
        encoder = load_encoder(options.encoder, cache_dir=options.work / EMBEDDINGS)
        means = [encoder.encode(t.descriptions[: options.descriptions]).mean(0) for t in tasks]
        return vector_cosines(torch.stack(means))

    def make(name: str) -> dict[str, Any]:
        adapters = CELLS[name](library.weights)
        found = {
            pairs: asdict(
                correlate_pairs(
                    adapters, described(), groups, across_groups=across, seed=options.seed
                )
            )
            for pairs, across in (("all_pairs", False), ("across_groups", True))
        }
        plot_pairs(
            pair_values(described()),
            pair_values(adapters),
            options.plots / f"library-similarity-{name}.png",
            labels=("cosine of mean description embeddings", LABELS[name]),
            title=f"Pearson {found['all_pairs']['pearson']['value']:.2f}",
        )
        values = pair_values(adapters)
        return {
            **found,
            "tasks": len(tasks),
            "groups": len(set(groups)),
            "cosine": {"mean": float(values.mean()), "std": float(values.std())},
        }

    for name in CELLS:
        experiment.cell(
            name,
            lambda n=name: make(n),
            encoder=options.encoder,
            descriptions=options.descriptions,
        )


if __name__ == "__main__":
    main()
