"""What training the library and its multi-task adapter took, from the folders of their runs.

    python benchmarks/library/training.py --library LIBRARY --data DIR --run RUN [--multitask-run RUN]

RUN is the folder that `t2l train adapters` wrote. Seconds are of training, validation included,
summed over groups, which ran `--processes` at a time; losses are of the rows that choose each task's
best state (idx % 10 == 8).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import Experiment, parser

from text_to_lora.files import read_json


def figures(run: Path, names: list[str]) -> dict[str, Any]:
    """Rows, steps, tokens and seconds of the groups of a run, and every task's losses."""
    found: dict[str, Any] = {"seconds_training": 0.0, "tokens": 0, "groups": len(names)}
    tasks: list[dict[str, Any]] = []
    for name in names:
        folder = run / "groups" / name
        text = (folder / "history.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        found["seconds_training"] = round(found["seconds_training"] + lines[-1]["seconds"], 1)
        found["tokens"] += sum(line["tokens"] for line in lines)
        tasks += read_json(folder / "result.json")["entries"]
    pairs = [(t["base_loss"], t["validation_loss"]) for t in tasks]
    settings = read_json(run / "config.json")
    return found | {
        "rows": sum(t["rows"] for t in tasks),
        "adapters": len(tasks),
        "better_than_base": sum(own < base for base, own in pairs),
        "mean_base_loss": sum(base for base, _ in pairs) / len(pairs),
        "mean_loss": sum(own for _, own in pairs) / len(pairs),
        "settings": {key: settings[key] for key in ("adapter", "optimizer", "objective", "run")},
        "tasks": {t["task"]: {k: v for k, v in t.items() if k != "task"} for t in tasks},
    }


def main() -> None:
    """Write the cells that are not there."""
    arguments = parser(__doc__, "training", rows=0)
    arguments.add_argument("--run", type=Path, required=True, help="folder of the library's run")
    arguments.add_argument("--multitask-run", type=Path, help="folder of the multi-task run")
    arguments.add_argument("--processes", type=int, default=2, help="of the library's run")
    options = arguments.parse_args()
    experiment = Experiment(options)
    groups = sorted(path.name for path in (options.run / "groups").glob("[0-9]*"))
    experiment.cell(
        "library", lambda: {"processes": options.processes} | figures(options.run, groups)
    )
    if options.multitask_run is not None:
        experiment.cell("multitask", lambda: figures(options.multitask_run, ["multitask"]))


if __name__ == "__main__":
    main()
