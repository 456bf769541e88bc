"""Time adapters of many tasks trained together against one after another, on the same samples.

    python -m benchmarks.speed.joint_adapters --data DIR [--tasks 32] [--rows 96 384] [--threads 2]

All contestants see the same rows of each task in the same order, in the same steps, cut to the same
numbers of tokens, on the embedded base with adapters of the recipe's rank on its targets:

- joint: `train_adapters`, all tasks together, in a fresh process
- peft: a fresh process a task, as a user runs it: `AutoModelForCausalLM.from_pretrained`, PEFT and
  transformers' Trainer with their defaults, labels of -100 on the prompt, all logits. It gets its
  rows as tokens, so that it need not tokenise.
- warm: one process, one task after the other through the base that stays loaded, with our own hooks,
  in the same dtype and with the same attention as the joint run, logits of answers alone, and
  torch's fused AdamW; its start is not counted

A joint run stands before and after the others, and the mean of the two counts, so that other load
weighs on all alike. `peft` is compared by the wall time of its processes, start included on both
sides; `warm` by the seconds of the training loop. A few tasks in float32 show that joint and warm
make the same adapters.

To reach: peft takes at least 4 times as long as joint. A run that is cut off goes on with what it
has in --work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoTokenizer, PreTrainedModel, get_scheduler

from benchmarks.lib import Recorder, again, parse, run_json
from text_to_lora.files import read_finished, write_folder, write_json
from text_to_lora.inference.rows import answer_logits
from text_to_lora.library.library import load_library
from text_to_lora.lora import load_adapter, save_adapter
from text_to_lora.models.base import load_base_config
from text_to_lora.models.find import find_base
from text_to_lora.tasks.task import Task
from text_to_lora.training import adapters
from text_to_lora.training.config import load_recipe
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.joint import Job
from text_to_lora.training.library_config import LibraryConfig
from text_to_lora.training.library_jobs import make_job, pick_tasks
from text_to_lora.training.losses import answer_losses
from text_to_lora.training.setup import load_for_training, make_spec, resolve_dtype
from text_to_lora.training.step_adapters import StackedAdapters, read_weights

TARGET = 4.0
AGREE_TASKS, AGREE_ROWS = 3, 32  # at most
AGREE = 1e-3  # of the norm of ΔW, in float32, where nothing but the order of sums differs

PEFT_SCRIPT = """
import json, sys
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments,
)
file, output = sys.argv[1:]
given = json.load(open(file))
tokenizer = AutoTokenizer.from_pretrained(given["base"])
model = AutoModelForCausalLM.from_pretrained(given["base"])
model = get_peft_model(model, LoraConfig(**given["lora"]))
rows = [
    {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
    for prompt, answer in given["rows"]
]

class InOrder(Trainer):
    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)

trainer = InOrder(
    model=model,
    args=TrainingArguments(output_dir=output, save_strategy="no", report_to="none",
                           use_cpu=True, **given["arguments"]),
    train_dataset=rows,
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
steps = trainer.train().global_step
model.save_pretrained(output)
print(json.dumps({"steps": steps, "dtype": str(model.dtype)}))
"""


def settings(recipe: str, folder: Path, rows: int, *changes: str) -> LibraryConfig:
    """The recipe on the tasks in a folder, all of their rows alike and no early stop."""
    return load_recipe(
        recipe,
        [
            "data.data_dir=null",
            f"data.folders=[{json.dumps(str(folder))}]",
            "data.validation_one_in=0",
            "data.count=null",
            "data.eval_rows=0",
            f"run.rows={rows}",
            "run.patience=null",
            "run.tasks_at_once=100000",
            "run.save_every=1000000",
            "run.device=cpu",
            *changes,
        ],
        kind=LibraryConfig,
    )


def choose_tasks(recipe: str, data: Path, count: int, rows: int) -> list[Task]:
    """The first tasks of the recipe's order that have so many training rows."""
    config = load_recipe(
        recipe, [f"data.data_dir={json.dumps(str(data))}", "data.count=null"], kind=LibraryConfig
    )
    tasks = [task for task in pick_tasks(config) if len(task.training()) >= rows][:count]
    if len(tasks) < count:
        raise SystemExit(f"{len(tasks)} tasks have {rows} training rows; ask for fewer of either")
    return tasks


def write_tasks(folder: Path, tasks: Sequence[Task]) -> None:
    """Write training rows as a task folder."""
    entries = [
        {
            "id": task.name,
            "descriptions": list(task.descriptions),
            "metric": {"kind": task.metric.kind, "labels": list(task.metric.labels)},
            "group": task.group,
        }
        for task in tasks
    ]
    rows = [
        {"task_id": t.name, "idx": e.idx, "input": e.input, "outputs": list(e.outputs)}
        for t in tasks
        for e in t.training()
    ]
    with write_folder(folder) as temporary:
        (temporary / "tasks.json").write_text(json.dumps(entries), encoding="utf-8")
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (temporary / "data.jsonl").write_text(text, encoding="utf-8")


def make_jobs(config: LibraryConfig) -> list[Job]:
    """What the joint run trains on, by task."""
    return [make_job(task, config) for task in pick_tasks(config)]


def make_encoder(config: LibraryConfig, tokenizer: Any) -> RowEncoder:
    """Rows to tokens, as the joint run has them."""
    return RowEncoder(
        tokenizer,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_answer_tokens=config.data.max_answer_tokens,
    )


def load(config: LibraryConfig) -> tuple[PreTrainedModel, Any]:
    """The base as the joint run has it."""
    device = torch.device("cpu")
    base, tokenizer = load_for_training(resolve_dtype(config.base, device), device)
    base.requires_grad_(False)
    return base, tokenizer


def run_joint(config: LibraryConfig, output: Path) -> dict[str, Any]:
    """Train all tasks together, as `t2l train adapters` does; seconds of its loop."""
    adapters.train_adapters(config, output_dir=output)
    (history,) = output.glob("groups/*/history.jsonl")
    last = json.loads(history.read_text(encoding="utf-8").splitlines()[-1])
    return {"loop_s": round(last["seconds"], 2)}


def run_warm(config: LibraryConfig, output: Path, places: Sequence[int]) -> dict[str, Any]:
    """Train some tasks one after the other on a base that stays; writes a PEFT folder each.

    places: of the tasks, in the library's order
    """
    base, tokenizer = load(config)
    encoder = make_encoder(config, tokenizer)
    spec = make_spec(config.base, config.adapter, base.config)
    jobs = make_jobs(config)
    loop = 0.0
    optimizer = config.optimizer
    for place in places:
        job = jobs[place]
        start = time.perf_counter()
        # The start that the joint run gives every task.
        adapter = StackedAdapters(spec, 1, torch.Generator().manual_seed(config.run.seed))
        adamw = torch.optim.AdamW(
            adapter.parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        schedule = get_scheduler(
            optimizer.schedule,
            adamw,
            num_warmup_steps=round(optimizer.warmup * job.num_steps),
            num_training_steps=job.num_steps,
        )

        for step in range(job.num_steps):
            rows = encoder.join((*row, None) for row in job.batch(step))
            with answer_logits(base, rows, adapter(torch.empty(0, 0))) as logits:
                torch.autograd.backward(answer_losses(logits, rows).mean())
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), optimizer.max_grad_norm)
            adamw.step()
            schedule.step()
            adamw.zero_grad()
        loop += time.perf_counter() - start
        save_adapter(read_weights(adapter), output / str(place), provenance={}, overwrite=True)
    return {"loop_s": round(loop, 2)}


def run_peft(
    config: LibraryConfig, work: Path, places: Sequence[int], environment: dict[str, str]
) -> dict[str, Any]:
    """Train some tasks in a process each; seconds of the processes."""
    section = config.base
    base_config = load_base_config(section.name)
    spec = make_spec(section, config.adapter, base_config)
    tokenizer = AutoTokenizer.from_pretrained(find_base(section.name))
    encoder = make_encoder(config, tokenizer)
    jobs = make_jobs(config)
    optimizer = config.optimizer
    wall, dtype = 0.0, ""
    for place in places:
        job, output = jobs[place], work / "adapters" / str(place)
        given = {
            "base": str(find_base(section.name)),
            "lora": {
                "r": spec.rank,
                "lora_alpha": spec.alpha,
                "use_rslora": spec.rslora,
                "target_modules": [spec.module_name(s.layer, s.module) for s in spec.slots],
                "task_type": "CAUSAL_LM",
            },
            "arguments": {
                "per_device_train_batch_size": job.batch_size,
                "num_train_epochs": 1,
                "learning_rate": optimizer.lr,
                "lr_scheduler_type": optimizer.schedule,
                "warmup_steps": round(optimizer.warmup * job.num_steps),
                "weight_decay": optimizer.weight_decay,
                "max_grad_norm": optimizer.max_grad_norm,
                "seed": config.run.seed,
            },
            "rows": [[list(part) for part in encoder.encode(*row)] for row in job.rows],
        }
        write_json(work / "given.json", given)
        command = [sys.executable, "-c", PEFT_SCRIPT, str(work / "given.json"), str(output)]
        start = time.perf_counter()
        measured = run_json(command, environment)
        wall += time.perf_counter() - start
        if measured["steps"] != job.num_steps:
            raise SystemExit(f"Trainer took {measured['steps']} steps, not {job.num_steps}")
        dtype = measured["dtype"]
    return {"wall_s": round(wall, 2), "dtype": dtype}


def agree(config: LibraryConfig, work: Path) -> dict[str, Any]:
    """How far the adapters of the joint and the warm run are apart on a base in float32.

    In bfloat16 roundings grow from step to step, so that their losses are alike in the mean alone.

    Raises SystemExit when they are not the same.
    """
    shutil.rmtree(work, ignore_errors=True)  # of a run that was cut off
    run_joint(config, work / "joint")
    jobs = make_jobs(config)
    run_warm(config, work / "warm", range(len(jobs)))
    joint = load_library(work / "joint" / "library")
    base_config = load_base_config(config.base.name)
    apart = 0.0
    for place, job in enumerate(jobs):
        joint_adapter = joint.adapter(job.name)
        other = load_adapter(work / "warm" / str(place), base_config=base_config)
        for key in joint_adapter.a:
            difference = (joint_adapter.delta(key) - other.delta(key)).norm() / other.delta(
                key
            ).norm()
            apart = max(apart, float(difference))
    if apart > AGREE:
        raise SystemExit(f"the joint and the warm run differ by {apart:.1e} of the norm of ΔW")
    return {
        "tasks": len(jobs),
        "steps": max(job.num_steps for job in jobs),
        "largest_relative_difference_of_delta": float(f"{apart:.1e}"),
    }


def finish(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in a file, measured first where there is none."""
    result = read_finished(path, {})
    if result is None:
        result = run()
        write_json(path, result)
        print(f"{path.stem}: {json.dumps(result)}", flush=True)
    return result


def compare(
    config: LibraryConfig, work: Path, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """All contestants at one number of rows."""
    environment = settle(options)

    def child(*part: str) -> dict[str, Any]:
        return run_part_apart(options, config.run.rows, *part)

    def joint(number: int) -> dict[str, Any]:
        output = work / f"joint-{number}"
        shutil.rmtree(output, ignore_errors=True)  # of a run that was cut off
        start = time.perf_counter()
        measured = child("joint", str(output))
        return {"wall_s": round(time.perf_counter() - start, 2), **measured}

    places = list(map(str, range(count)))
    # The joint run stands before and after the others, so that what disturbs one disturbs all.
    before = finish(work / "joint-0.json", lambda: joint(0))
    peft_run = finish(
        work / "peft.json", lambda: run_peft(config, work / "peft", range(count), environment)
    )
    warm = finish(work / "warm.json", lambda: child("warm", str(work / "warm"), *places))
    joints = [before, finish(work / "joint-1.json", lambda: joint(1))]
    wall = statistics.mean(run["wall_s"] for run in joints)
    loop = statistics.mean(run["loop_s"] for run in joints)
    return {
        "rows_a_task": config.run.rows,
        "peft_over_joint": round(peft_run["wall_s"] / wall, 2),
        "warm_over_joint": round(warm["loop_s"] / loop, 2),
        "joint": before
        | {"wall_s": wall, "loop_s": loop, "walls_s": [r["wall_s"] for r in joints]},
        "peft": peft_run,
        "warm": warm,
    }


def settle(options: argparse.Namespace) -> dict[str, str]:
    """The environment of all processes."""
    threads = str(options.threads)
    return os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}


def run_part_apart(options: argparse.Namespace, rows: int, *part: str) -> dict[str, Any]:
    """The result of a part of this script in a fresh process."""
    call = again("speed.joint_adapters", "--data", options.data, "--recipe", options.recipe)
    call += ["--work", str(options.work), "--tasks", str(options.tasks)]
    result: dict[str, Any] = run_json([*call, "--part", str(rows), *part], settle(options))
    return result


def run_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One part, in this process; folder: of the tasks."""
    rows, kind, output, *places = options.part
    if kind == "agree":
        changes = (f"data.count={min(AGREE_TASKS, options.tasks)}", "base.dtype=float32")
        return agree(settings(options.recipe, folder, int(rows), *changes), Path(output))
    config = settings(options.recipe, folder, int(rows))
    if kind == "joint":
        return run_joint(config, Path(output))
    return run_warm(config, Path(output), [int(place) for place in places])


def summary(results: Sequence[dict[str, Any]], tasks: int) -> list[dict[str, str]]:
    """The rows of the README's table."""
    rows = []
    for measured in results:
        count = measured["rows_a_task"]
        rows += [
            {
                "what": f"{tasks} adapters of {count} rows together, against PEFT and Trainer in "
                "a process each",
                "result": f"{measured['peft_over_joint']:.1f} × as fast "
                f"({measured['joint']['wall_s']:.0f} s, {measured['peft']['wall_s']:.0f} s)",
                "target": f"{TARGET:g} ×",
            },
            {
                "what": "the same, against one after another on a loaded base in the same dtype",
                "result": f"{measured['warm_over_joint']:.2f} × as fast "
                f"({measured['joint']['loop_s']:.0f} s, {measured['warm']['loop_s']:.0f} s)",
                "target": "",
            },
        ]
    return rows


def main() -> None:
    """Run the comparison, print it and write it down."""
    parser = parse(__doc__, "joint_adapters")
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--recipe", default="embedded-library", help="recipe of a library")
    parser.add_argument("--tasks", type=int, default=32, help="adapters (default 32)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[96, 384], help="rows a task (default 96 384)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/joint_adapters"), help="folder to go on from"
    )
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tasks = options.work / f"tasks-{options.tasks}"
    if options.part:
        print(json.dumps(run_part(options, tasks)))
        return

    torch.set_num_threads(options.threads)
    recorder = Recorder(threads=options.threads)
    if not tasks.exists():
        write_tasks(
            tasks, choose_tasks(options.recipe, options.data, options.tasks, max(options.rows))
        )
    few = min(AGREE_ROWS, *options.rows)
    agreement = finish(
        options.work / "agreement.json",
        lambda: run_part_apart(options, few, "agree", str(options.work / "agreement")),
    )
    results = []
    for rows in options.rows:
        config = settings(options.recipe, tasks, rows)
        results.append(compare(config, options.work / str(rows), options.tasks, options))
    recipe = settings(options.recipe, tasks, options.rows[0])
    result = {
        "peft": peft.__version__,
        "tasks": options.tasks,
        "settings": {
            "recipe": options.recipe,
            "base": recipe.base.model_dump(mode="json"),
            "adapter": recipe.adapter.model_dump(mode="json"),
            "optimizer": recipe.optimizer.model_dump(mode="json"),
            "batch_size": recipe.run.batch_size,
            "tokens_per_pass": recipe.run.tokens_per_pass,
            "max_prompt_tokens": recipe.data.max_prompt_tokens,
            "max_answer_tokens": recipe.data.max_answer_tokens,
        },
        "target_ratio": TARGET,
        "agreement_in_float32": agreement,
        "results": results,
        "summary": summary(results, options.tasks),
    }
    write_json(options.out, recorder.complete(result))
    for row in result["summary"]:
        print(f"{row['what']}: {row['result']}")


if __name__ == "__main__":
    main()
