"""What the adapters of the default hypernetwork do to other tasks than their own, and to plain text.

    python -m benchmarks.studies.harm --data DIR --work WORK [--adapters 12] [--threads 1]

Adapters of unseen tasks' definitions, and both multi-task adapters, answer rows of unseen tasks of other
source groups, whose own definitions stand in the prompt. Plain texts are inputs of the unseen tasks
without prompt or question. Finished adapters are not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.lib import RESULTS, Recorder
from benchmarks.studies.unseen import unseen_tasks
from text_to_lora import TextToLora, load_adapter
from text_to_lora.analysis.no_harm import Judged, choose_other_rows, run_harm
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.models.find import embedded_folder

OTHER_TASKS, ROWS_PER_TASK = 24, 4
TEXTS, SHORTEST = 24, 12  # plain texts, and words of the shortest


def main() -> None:
    """Measure the harm and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--work", type=Path, required=True, help="folder of finished adapters")
    add("--adapters", type=int, default=12, help="generated adapters (default 12)")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--out", type=Path, default=RESULTS / "harm.json", help="where the result goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    tasks = sorted(unseen_tasks(options.data), key=lambda task: task.name)
    chosen = tasks[:: max(1, len(tasks) // options.adapters)][: options.adapters]
    t2l = TextToLora.from_pretrained("embedded")
    base, tokenizer = t2l.base
    generated = t2l.generate([task.definition for task in chosen])
    judged = [
        Judged(task.name, entry, group_of(task))
        for task, entry in zip(chosen, generated.provenance, strict=True)
    ]
    weights = generated.weights.unbind()
    for name in ("multitask", "multitask-in-prompt"):
        judged.append(Judged(name, {"embedded": name}))
        weights.append(load_adapter(embedded_folder(name), base_config=base.config))
    inputs = [task.scored()[0].input for task in tasks]
    result = run_harm(
        base=base,
        tokenizer=tokenizer,
        adapters=judged,
        weights=weights,
        rows=choose_other_rows(
            tasks,
            num_tasks=OTHER_TASKS,
            rows_per_task=ROWS_PER_TASK,
            seed=0,
            examples=lambda task: task.scored(),
        ),
        texts=[text for text in inputs if len(text.split()) >= SHORTEST][:TEXTS],
        output_dir=options.work / "harm",
        progress=lambda line: print(line, flush=True),
    )
    recorder.write(options.out, result)


if __name__ == "__main__":
    main()
