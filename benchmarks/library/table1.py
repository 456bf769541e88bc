"""Table 1's form: nine named tasks, oracle against reconstruction from one-hot and from text.

    python benchmarks/library/table1.py --library LIBRARY --data DIR

Hypernetworks L, M and S are trained on the adapters of these nine tasks alone, z-scored factors,
once from one-hot task codes and once from descriptions. Score by the task's metric and NLL of the
answer on held-out rows (idx % 10 == 9) of each task. 95% intervals: of a task by resampling its
rows, of the mean by resampling the nine tasks.
"""

from __future__ import annotations

from typing import Any

import reconstruction
from common import HEADS, Experiment, add_cells, parser

from text_to_lora.evaluation.adapters import TaskScores, as_json, row_interval
from text_to_lora.lora import LoraWeights

# Three of each metric, of nine source groups, chosen by kind alone before any of them was scored.
NINE = (
    "task190_snli_classification",
    "task195_sentiment140_classification",
    "task585_preposition_classification",
    "sni_regen.task497_extract_all_numbers_from_list_in_order",
    "task1518_limit_answer_generation",
    "structured.inflect_past",
    "task102_commongen_sentence_generation",
    "task288_gigaword_summarization",
    "task442_com_qa_paraphrase_question_generation",
)
REFERENCES = ("oracle", "base", "mean")
CONDITIONINGS = ("one-hot", "text")
CELLS = (*REFERENCES, *(f"{head}-{kind}" for head in HEADS for kind in CONDITIONINGS))


def main() -> None:
    """Make the cells that are not made yet; references first."""
    arguments = parser(__doc__, "table1", rows=40)
    add_cells(arguments)
    arguments.add_argument("--tasks", type=lambda text: tuple(text.split(",")), default=NINE)
    reconstruction.add_settings(arguments, steps=1000, batch=9)
    options = arguments.parse_args()
    experiment = Experiment(options)
    nine = experiment.library.select(options.tasks)
    names, report = nine.names, experiment.report(nine.names)
    references: dict[str, TaskScores] = {}

    def measure(weights: LoraWeights | None) -> dict[str, Any]:
        scores = experiment.score(names, weights)
        recovery = {}
        if oracle := references.get("oracle"):
            base = references.get("base", scores)  # the base itself comes next
            recovery = {
                "recovery": report.recovery(scores, base=base, oracle=oracle),
                "minus": {
                    name: report.difference(scores, than) for name, than in references.items()
                },
            }
        intervals = {
            task: {
                "nll": as_json(row_interval(scores.nll[task], seed=options.seed)),
                "score": as_json(row_interval(scores.score[task], seed=options.seed)),
            }
            for task in names
        }
        errors = {} if weights is None else {"errors": reconstruction.errors(weights, nine, names)}
        return {
            "summary": report.summary(scores),
            **recovery,
            **errors,
            "tasks": scores.to_dict(),
            "intervals": intervals,
        }

    for name, weights in (("oracle", nine.weights), ("base", None), ("mean", nine.mean())):
        cell = experiment.cell(name, lambda w=weights: measure(w), scored=list(names))
        references[name] = TaskScores.from_dict(cell["tasks"])

    def make(head: str, kind: str) -> dict[str, Any]:
        found, figures = reconstruction.run(experiment, nine, f"table1/{head}-{kind}", head, kind)
        return figures | measure(found)

    for name in options.cells or CELLS:
        if name not in REFERENCES:
            head, kind = name.split("-", 1)
            experiment.cell(
                name,
                lambda h=head, k=kind: make(h, k),
                scored=list(names),
                **reconstruction.identity(options, head, kind),
            )


if __name__ == "__main__":
    main()
