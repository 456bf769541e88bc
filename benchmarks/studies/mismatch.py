"""How often refining warns that rows and description may be of different tasks, rightly and wrongly.

Each unseen task lends four of its rows to its own definition, and to those of three other tasks of other
groups. The script counts how often the warning of `text_to_lora.training.refine_match` comes with either.

    python -m benchmarks.studies.mismatch --data DIR
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean

import torch

from benchmarks.lib import Recorder, parse
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.generate import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.refine_match import UNRELATED, mean_loss

OTHERS = 3


def main() -> None:
    """Measure and write the result."""
    arguments = parse(__doc__, "mismatch", threads=1)
    arguments.add_argument("--data", type=Path, required=True, help="folder of task collections")
    arguments.add_argument("--model", default="embedded", help="hypernetwork")
    arguments.add_argument("--rows", type=int, default=4, help="rows of each task")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    t2l = TextToLora.from_pretrained(options.model)
    base, tokenizer = t2l.base
    encoder = RowEncoder(tokenizer, max_prompt_tokens=256, max_answer_tokens=64)
    tasks = [task for task in load_data_dir(options.data, "dev_heldout") if task.support()]
    adapters = t2l.generate([task.definition for task in tasks]).weights.to(dtype=torch.float32)
    unrelated = t2l.generate(UNRELATED).weights.to(dtype=torch.float32)
    false_alarms, hits = {}, {}
    for place, task in enumerate(tasks):
        rng = Random(f"mismatch/{task.name}")
        rows = [(row.input, row.outputs[0]) for row in rng.sample(task.support(), options.rows)]
        foreign = [n for n, other in enumerate(tasks) if group_of(other) != group_of(task)]

        judge = partial(mean_loss, tuple(rows), base=base, encoder=encoder)
        limit = min(judge(adapter) for adapter in unrelated.unbind())
        strangers = adapters.select(rng.sample(foreign, OTHERS)).unbind()
        false_alarms[task.name] = float(judge(adapters.narrow(place, 1)) > limit)
        hits[task.name] = fmean(judge(adapter) > limit for adapter in strangers)
        print(f"{task.name}: {false_alarms[task.name]:.0f} {hits[task.name]:.1f}", flush=True)
    bootstrap = GroupBootstrap({task.name: group_of(task) for task in tasks})
    recorder.write(
        options.out,
        {
            "tasks": len(tasks),
            "rows": options.rows,
            "others": OTHERS,
            "warned_of_right_description": bootstrap.mean(false_alarms).to_dict(),
            "warned_of_another_description": bootstrap.mean(hits).to_dict(),
        },
    )


if __name__ == "__main__":
    main()
