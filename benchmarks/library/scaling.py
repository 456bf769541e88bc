"""Figure 3's form: what is left of the oracles when one network stands for more and more of them.

    python benchmarks/library/scaling.py --library LIBRARY --data DIR

For L at 16, 32, 64, 128 and 256 adapters and for M and S at 16, 64 and 256: the first so many of
the library, so that every set holds the smaller ones; one-hot task codes, z-scored factors, the same
number of steps and adapters a step for every cell, so that an adapter of a larger set is seen less
often. Scored on the tasks of the smallest set, which are in all: score relative to the oracles,
share of the NLL gap between base and oracles that is closed; L1 error of the factors and relative
error of ΔW; bytes. Beside them the mean adapter of each set and the base, and L from descriptions at
the largest size. 95% intervals are over source groups.
"""

from __future__ import annotations

from typing import Any

import reconstruction
from common import Experiment, add_cells, parser

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.adapters import TaskScores
from text_to_lora.lora import LoraWeights

SIZES = (16, 32, 64, 128, 256)  # of L and of the mean adapter
FEW_SIZES = (16, 64, 256)  # of M and S


def list_cells(sizes: list[int], few_sizes: list[int]) -> list[str]:
    """Names of all cells, the references first."""
    return [
        "oracle",
        "base",
        *(f"mean-{size}" for size in sizes),
        *(f"L-{size}" for size in sizes),
        *(f"{head}-{size}" for head in "MS" for size in few_sizes),
        f"L-{max(sizes)}-text",
    ]


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Make the cells that are not made yet; references first."""
    arguments = parser(__doc__, "scaling", rows=30)
    arguments.add_argument("--sizes", type=numbers, default=list(SIZES), help="of L and the mean")
    arguments.add_argument("--few-sizes", type=numbers, default=list(FEW_SIZES), help="of M and S")
    add_cells(arguments)
    reconstruction.add_settings(arguments, steps=1000, batch=16)
    options = arguments.parse_args()
    cells = options.cells or list_cells(options.sizes, options.few_sizes)
    experiment = Experiment(options)
    library = experiment.library
    if max(options.sizes) > len(library):
        raise ConfigError(
            f"--sizes has {max(options.sizes)}; the library has {len(library)} adapters"
        )
    scored = library.names[: min(options.sizes)]
    report = experiment.report(scored)
    references: dict[str, TaskScores] = {}

    def measure(weights: LoraWeights | None) -> dict[str, Any]:
        scores = experiment.score(scored, weights)
        recovery = {}
        if oracle := references.get("oracle"):
            base = references.get("base", scores)  # the base itself comes next
            recovery["recovery"] = report.recovery(scores, base=base, oracle=oracle)
        return {"summary": report.summary(scores), **recovery, "tasks": scores.to_dict()}

    for name, weights in (("oracle", library.select(scored).weights), ("base", None)):
        cell = experiment.cell(name, lambda w=weights: measure(w), scored=len(scored))
        references[name] = TaskScores.from_dict(cell["tasks"])

    def average(size: int) -> dict[str, Any]:
        part = library.select(library.names[:size])
        mean = part.mean()
        errors = reconstruction.errors(mean, part, scored)
        return {"adapters": size, "errors": errors, **measure(mean)}

    def make(name: str, head: str, size: int, kind: str) -> dict[str, Any]:
        part = library.select(library.names[:size])
        found, figures = reconstruction.run(experiment, part, f"scaling/{name}", head, kind)
        errors = reconstruction.errors(found, part, scored)
        return {**figures, "errors": errors, **measure(found.select(range(len(scored))))}

    for name in cells:
        head, _, rest = name.partition("-")
        size, _, kind = rest.partition("-")
        if head == "mean":
            experiment.cell(name, lambda s=int(size): average(s), scored=len(scored))
        elif rest:
            kind = kind or "one-hot"
            experiment.cell(
                name,
                lambda n=name, h=head, s=int(size), k=kind: make(n, h, s, k),
                scored=len(scored),
                **reconstruction.identity(options, head, kind),
            )


if __name__ == "__main__":
    main()
