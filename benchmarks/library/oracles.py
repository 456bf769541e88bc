"""How good a library is: base, multi-task adapter, mean adapter and oracles on held-out rows.

    python benchmarks/library/oracles.py --library LIBRARY --data DIR --multitask MULTITASK

Every task of the library, on rows that no adapter was trained on. Four cells: base; mean, the
element-wise mean of all oracles; oracle, each task by its own adapter; multitask, one adapter
trained on all tasks. Differences from the cells before are paired by task; 95% intervals are over
source groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import Experiment, parser

from text_to_lora.evaluation.adapters import TaskScores
from text_to_lora.lora import LoraWeights
from text_to_lora.lora.library import hash_adapter
from text_to_lora.lora.peft_format import load_adapter


def main() -> None:
    """Score what is not scored yet."""
    arguments = parser(__doc__, "oracles", rows=10)
    arguments.add_argument("--multitask", type=Path, help="PEFT folder of the multi-task adapter")
    options = arguments.parse_args()
    experiment = Experiment(options)
    library = experiment.library
    names = library.names
    report = experiment.report(names)
    scored: dict[str, dict[str, Any]] = {}

    def make(weights: LoraWeights | None) -> dict[str, Any]:
        scores = experiment.score(names, weights)
        minus = {
            other: report.difference(scores, TaskScores.from_dict(cell["tasks"]))
            for other, cell in scored.items()
        }
        return {"summary": report.summary(scores), "minus": minus, "tasks": scores.to_dict()}

    scored["base"] = experiment.cell("base", lambda: make(None))
    scored["mean"] = experiment.cell("mean", lambda: make(library.mean()))
    scored["oracle"] = experiment.cell("oracle", lambda: make(library.weights))
    if options.multitask is not None:
        shared = load_adapter(options.multitask, base_config=experiment.base[0].config)
        experiment.cell("multitask", lambda: make(shared), adapter=hash_adapter(shared))


if __name__ == "__main__":
    main()
