"""No harm: what the adapters of unseen tasks' descriptions do to other tasks and to plain text.

    python benchmarks/judge/no_harm.py --data DIR --work WORK

One adapter for each unseen task's definition, and the multi-task adapter beside them; rows of
training tasks that training did not see (idx % 10 == 9), each with its own definition in the prompt.
WORK keeps an adapter's results; an interrupted run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from judging import PLOTS, parser

from recorded import make_cell
from text_to_lora.analysis.harm_plots import plot_harm
from text_to_lora.analysis.no_harm import Judged, choose_other_rows, run_harm
from text_to_lora.evaluation.conditions import group_of
from text_to_lora.files import file_hash
from text_to_lora.lora.peft_format import WEIGHTS_FILE, load_adapter
from text_to_lora.models.base import load_base
from text_to_lora.models.find import find_adapter
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task

TEXTS = 8  # documents of plain text


def main() -> None:
    """Measure what is not measured yet."""
    arguments = parser(__doc__)
    arguments.set_defaults(rows=2)
    arguments.add_argument("--model", default="embedded", help="hypernetwork (default embedded)")
    arguments.add_argument("--tasks", type=int, default=20, help="other tasks (default 20)")
    arguments.add_argument("--work", type=Path, required=True, help="folder of finished adapters")
    arguments.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plot")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    t2l = TextToLora.from_pretrained(options.model)
    cell = make_cell(
        options.out / "no_harm.json",
        lambda: measure(t2l, options),
        identity={
            "hypernet": t2l.fingerprint,
            "split": options.split,
            "rows_per_task": options.rows,
            "other_tasks": options.tasks,
            "row_seed": options.row_seed,
        },
        threads=options.threads,
    )
    plot_harm(cell["harm"], options.plots / "no-harm.png")


def measure(t2l: TextToLora, options: Any) -> dict[str, Any]:
    """Every unseen task's adapter, and the multi-task adapter."""
    base, tokenizer = load_base(spec=t2l.spec)
    unseen = load_data_dir(options.data, options.split)
    judged = [
        Judged(
            task.name,
            {"description": task.definition, "hypernet": t2l.fingerprint},
            group_of(task),
        )
        for task in unseen
    ]
    weights = t2l.generate([task.definition for task in unseen]).weights.unbind()
    multitask = find_adapter("embedded") if options.model == "embedded" else None
    if multitask is not None:
        judged.append(
            Judged("the multi-task adapter", {"sha256": file_hash(multitask / WEIGHTS_FILE)})
        )
        weights.append(load_adapter(multitask, base_config=base.config))
    table = pq.read_table(options.data / "pretrain" / "valid.parquet", columns=["text"])
    texts = [text for text in table["text"].to_pylist() if len(text) > 2000][:TEXTS]
    rows = choose_other_rows(
        load_data_dir(options.data),
        num_tasks=options.tasks,
        rows_per_task=options.rows,
        seed=options.row_seed,
        examples=Task.validation,
    )
    result = run_harm(
        base=base,
        tokenizer=tokenizer,
        adapters=judged,
        weights=weights,
        rows=rows,
        output_dir=options.work,
        texts=[text[1000:2000] for text in texts],
        seed=options.row_seed,
        progress=lambda line: print(line, flush=True),
    )
    for found in result["adapters"].values():
        found["identity"].pop("description", None)  # a text of the data; the task names it
    return {"harm": result}


if __name__ == "__main__":
    main()
