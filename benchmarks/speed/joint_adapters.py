"""Time adapters of several tasks trained together against PEFT and a Trainer, one task after another.

    python -m benchmarks.speed.joint_adapters --data DIR [--tasks 4] [--rows 384] [--threads 1]

Both see the same rows of each task in the same order and in the same steps of eight, cut to the same
numbers of tokens, on the embedded base with adapters of the recipe's rank on its targets, at the same
learning rate:

joint: `t2l train adapters embedded-library`, all tasks together
peft: a process a task, as a user would write it: `AutoModelForCausalLM.from_pretrained`, PEFT and
    transformers' Trainer with their defaults, labels of -100 on the prompt; its rows come as tokens

Seconds are those of whole processes, start included. They alternate: half of PEFT's tasks come before
the joint run and half after it. To reach: PEFT takes at least 5 times as long.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import peft

from benchmarks.lib import PROGRAM, Recorder, parse, time_process
from text_to_lora.files import write_json
from text_to_lora.models.base import load_base_config, load_tokenizer
from text_to_lora.models.find import find_base
from text_to_lora.training.adapters import LibraryConfig, make_job, pick_tasks
from text_to_lora.training.config import load_recipe
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.setup import make_spec

RECIPE = "embedded-library"
TO_REACH = 5.0

PEFT_SCRIPT = """
import json, sys
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments,
)
given = json.load(open(sys.argv[1]))
tokenizer = AutoTokenizer.from_pretrained(given["base"])
model = AutoModelForCausalLM.from_pretrained(given["base"])
model = get_peft_model(model, LoraConfig(**given["lora"]))

class InOrder(Trainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)

trainer = InOrder(
    model=model,
    args=TrainingArguments(output_dir=sys.argv[2], save_strategy="no", report_to="none",
                           use_cpu=True, num_train_epochs=1, **given["arguments"]),
    train_dataset=given["rows"],
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
assert trainer.train().global_step == given["steps"]
model.save_pretrained(sys.argv[2])
"""


def settings_of_run(data: Path, rows: int, names: tuple[str, ...] = ()) -> list[str]:
    """The recipe's overrides: these tasks, all of their rows alike, and no early stop."""
    return [
        f"data.data_dir={json.dumps(str(data))}",
        f"data.names={json.dumps(names)}",
        "data.count=null",
        "data.eval_rows=0",
        f"run.rows={rows}",
        "run.epochs=1",
        "run.patience=null",
        "run.save_every=1000000",
        "run.device=cpu",
    ]


def describe_peft_runs(config: LibraryConfig) -> list[dict[str, Any]]:
    """What the process of each task is given: base, adapter, arguments of the Trainer, and rows."""
    base = find_base(config.base.name)
    spec = make_spec(config.base, config.adapter, load_base_config(base))
    encoder = RowEncoder(
        load_tokenizer(base),
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_answer_tokens=config.data.max_answer_tokens,
    )
    runs = []
    for task in pick_tasks(config):
        job = make_job(task, config)
        encoded = [encoder.encode(*row) for row in job.rows]
        run = {
            "base": str(base),
            "steps": job.num_steps,
            "lora": {
                "r": spec.rank,
                "lora_alpha": int(spec.alpha),
                "use_rslora": spec.rslora,
                "target_modules": [spec.module_name(s.layer, s.module) for s in spec.slots],
                "task_type": "CAUSAL_LM",
            },
            "arguments": {
                "per_device_train_batch_size": job.batch_size,
                "learning_rate": config.optimizer.lr,
                "lr_scheduler_type": config.optimizer.schedule,
                "warmup_steps": round(config.optimizer.warmup * job.num_steps),
                "weight_decay": config.optimizer.weight_decay,
                "max_grad_norm": config.optimizer.max_grad_norm,
            },
            "rows": [
                {
                    "input_ids": [*prompt, *answer],
                    "labels": [-100] * len(prompt) + [*answer],
                }
                for prompt, answer in encoded
            ],
        }
        runs.append(run)
    return runs


def choose_tasks(data: Path, count: int, rows: int) -> tuple[str, ...]:
    """The first tasks of the recipe's order that have so many training rows."""
    config = load_recipe(RECIPE, settings_of_run(data, rows), kind=LibraryConfig)
    enough = [t.name for t in pick_tasks(config) if len(make_job(t, config).rows) >= rows]
    if len(enough) < count:
        raise SystemExit(f"{len(enough)} tasks have {rows} training rows; ask for fewer of either")
    return tuple(enough[:count])


def time_peft(run: dict[str, Any], folder: Path) -> float:
    """Seconds of the process of one task."""
    write_json(folder / "given.json", run)
    output = str(folder / "peft")
    return time_process(sys.executable, "-c", PEFT_SCRIPT, str(folder / "given.json"), output)[0]


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "joint_adapters", threads=1)
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--tasks", type=int, default=4, help="adapters (default 4)")
    parser.add_argument("--rows", type=int, default=384, help="rows a task (default 384)")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    recorder = Recorder(threads=options.threads)
    settings = settings_of_run(
        options.data, options.rows, choose_tasks(options.data, options.tasks, options.rows)
    )
    runs = describe_peft_runs(load_recipe(RECIPE, settings, kind=LibraryConfig))
    before = options.tasks // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peft_seconds = [time_peft(run, folder) for run in runs[:before]]
        overrides = [part for setting in settings for part in ("--set", setting)]
        command = (PROGRAM, "train", "adapters", RECIPE, "-o", str(folder / "joint"), *overrides)
        joint_seconds = time_process(*command)[0]
        peft_seconds += [time_peft(run, folder) for run in runs[before:]]
    result = {
        "peft": peft.__version__,
        "tasks": options.tasks,
        "rows": options.rows,
        "tokens": sum(len(row["input_ids"]) for run in runs for row in run["rows"]),
        "joint_s": round(joint_seconds, 1),
        "peft_s": [round(seconds, 1) for seconds in peft_seconds],
        "peft_over_joint": round(sum(peft_seconds) / joint_seconds, 2),
    }
    result["summary"] = [
        {
            "what": f"{options.tasks} adapters of {options.rows} rows together, against PEFT and a "
            "Trainer one after another",
            "result": f"{result['peft_over_joint']} × as fast",
            "target": f"{TO_REACH:g} ×",
        }
    ]
    print(json.dumps(result))
    recorder.write(options.out, result)


if __name__ == "__main__":
    main()
