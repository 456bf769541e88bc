"""Runs that are killed: the repeated command ends with the bytes of a run that nobody disturbed.

    python -m benchmarks.studies.crash --moments 9 --seed 0

Every job is a command of `t2l` on a tiny model. It runs undisturbed twice (files that differ between
the two, such as times, are not compared), and then once for every moment: it is killed with SIGKILL,
half of the times at a moment of its run time and half at one of its writes (the number of a call that
opens, makes, renames, deletes or changes the mode of a file in the output folder), and repeated.
Processes that train for a command are forked, which takes no time; each counts its own writes, and the
first that comes to the number is killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet
import torch

from benchmarks.lib import Recorder, import_from_tests, parse
from text_to_lora.cli import main as t2l
from text_to_lora.files import content_hash, file_hash, read_json
from text_to_lora.generate import TextToLora
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library

COLOURS = ("red", "green", "blue", "grey")
WRITES = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
MAX_SECONDS = 900.0  # of one run
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_THROUGH_THE_BASE = """
base: {name: WORK/base, dtype: float32}
adapter: {targets: all-linear, rank: 2, alpha: 4}
optimizer: {lr: 0.01}
data:
  folders: [WORK/tasks/own]
  max_prompt_tokens: 64
  max_answer_tokens: 16
  eval_rows: 2
"""
_HYPERNET = """
encoder: {name: hash}
hypernet: {latent_size: 8, head_in_size: 16, dropout: 0.2}
run: {steps: 4, log_every: 2, eval_every: 2, save_every: 2, device: cpu}
"""
RECIPES = {
    "reconstruct": f"""
verb: reconstruct
{_HYPERNET}
data: {{library: WORK/library, tasks_per_batch: 2}}
conditioning: {{kind: text}}
""",
    "adapters": f"""
verb: adapters
{_THROUGH_THE_BASE}
  validation_one_in: 0
run:
  rows: 8
  batch_size: 2
  eval_every: 2
  save_every: 2
  tasks_at_once: 2
  tokens_per_pass: 200
  device: cpu
""",
    "sft": f"""
{_HYPERNET}
{_THROUGH_THE_BASE}
  validation_one_in: 3
  family_tasks: 0
  family_share: 0
  tasks_per_batch: 2
  examples_per_task: 2
  max_description_tokens: 64
""",
}
"""What is trained, in 4 steps; WORK is the folder of the study."""


@dataclass(frozen=True)
class Job:
    """A command that is killed and repeated; it writes below the folder `out` of its work folder."""

    name: str
    arguments: tuple[str, ...]


def make_jobs(work: Path) -> list[Job]:
    """Write what the jobs read: a base, tasks, a hypernetwork, a library, adapters and recipes."""
    models = import_from_tests("tiny_models")
    hypernet = models.save_tiny_hypernet(work / "hypernet", models.save_base(work / "base"))
    import_from_tests("made_up_tasks").save_tasks(work / "tasks", COLOURS)
    texts = [f"Say {colour}." for colour in COLOURS]
    adapters = TextToLora.from_pretrained(hypernet).generate(texts)
    adapters.save(work / "adapters")
    entries = [LibraryEntry(f"say-{c}", (text,)) for c, text in zip(COLOURS, texts, strict=True)]
    save_library(AdapterLibrary(adapters.weights, entries), work / "library")
    (work / "texts.txt").write_text("\n".join(f"Say {number}." for number in range(24)))
    for name, recipe in RECIPES.items():
        (work / f"{name}.yaml").write_text(recipe.replace("WORK", str(work)))
    train = {name: f"train {name} WORK/{name}.yaml -o WORK/out/run" for name in RECIPES}
    commands = {
        "generate": "generate --from-file WORK/texts.txt -m WORK/hypernet -o WORK/out/many --overwrite",
        "library add": "library add WORK/adapters -o WORK/out/library --overwrite",
        "eval suite": "eval suite --tasks WORK/tasks -m WORK/hypernet -o WORK/out/suite"
        " --rows 2 --max-new-tokens 2 --conditions base,matched",
        **train,
        "adapters in two processes": f"{train['adapters']} --processes 2",
    }
    return [
        Job(name, tuple(word.replace("WORK", str(work)) for word in command.split()))
        for name, command in commands.items()
    ]


@dataclass(frozen=True)
class Ending:
    """How a process ended: its exit status, -9 where it was killed, its seconds and its writes."""

    status: int
    seconds: float
    writes: int


def run_in_child(
    action: Callable[[], object],
    folder: Path,
    *,
    log: Path,
    kill_after: float = MAX_SECONDS,
    kill_at_write: int | None = None,
) -> Ending:
    """Run something in a forked process.

    folder: below which writes are counted; log: takes what is printed
    kill_after: seconds until it is killed; kill_at_write: number of the write before which it is
    """
    context = get_context("fork")
    total = context.RawValue("i", 0)

    def run() -> None:
        """Run the action, and perhaps kill this process before one of its writes."""
        writes = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal writes
            if event not in WRITES or not str(arguments[0]).startswith(str(folder)):
                return
            if event == "open" and not (arguments[2] or 0) & _WRITE_FLAGS:
                return
            writes += 1
            if writes == kill_at_write:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.stdout = sys.stderr = log.open("w")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        sys.addaudithook(count)
        try:
            action()
        finally:
            total.value = writes

    process = context.Process(target=run)
    started = time.perf_counter()
    process.start()
    while process.exitcode is None:
        if time.perf_counter() - started > kill_after:
            process.kill()
        time.sleep(0.002)
    return Ending(process.exitcode, time.perf_counter() - started, total.value)


def run_command(job: Job) -> None:
    """Run the command of a job in this process, and fork those that train for it."""
    sys.argv = ["t2l", *job.arguments]
    fork = get_context("fork")
    with patch("text_to_lora.training.adapters.get_context", lambda method: fork):
        t2l()


def run_job(job: Job, work: Path, **kill: Any) -> Ending:
    """Run a job in a process of its own; kill: as for `run_in_child`."""
    return run_in_child(lambda: run_command(job), work / "out", log=work / "log", **kill)


def read_output(work: Path) -> dict[str, str]:
    """Hash of every file of the output by its path; of Parquet the rows count, of reports all but times."""
    out = work / "out"
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return {str(file.relative_to(out)): _hash(file) for file in files}


def _hash(file: Path) -> str:
    if file.name == "report.json":
        return content_hash(_without_seconds(read_json(file)))
    if file.suffix != ".parquet" or file.name.startswith("."):
        return file_hash(file)
    return content_hash(pyarrow.parquet.read_table(file).to_pylist())


def _without_seconds(value: Any) -> Any:
    """JSON without the times that were measured."""
    if isinstance(value, dict):
        return {key: _without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return [_without_seconds(entry) for entry in value] if isinstance(value, list) else value


def study(job: Job, work: Path, moments: int, seed: int) -> dict[str, Any]:
    """Kill a job at so many moments; count what the repeated command did otherwise."""
    undisturbed = []
    for _ in range(2):
        shutil.rmtree(work / "out", ignore_errors=True)
        ending = run_job(job, work)
        if ending.status:
            raise SystemExit(f"{job.name}: {(work / 'log').read_text()}")
        undisturbed.append(read_output(work))
    first, second = undisturbed
    expected = {name: digest for name, digest in first.items() if second.get(name) == digest}
    counts: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    for number in range(moments):
        rng = random.Random(f"{seed}/{job.name}/{number}")
        at_write = number % 2 == 1
        place = rng.randint(1, ending.writes) if at_write else rng.uniform(0, ending.seconds)
        kill = {"kill_at_write" if at_write else "kill_after": place}
        shutil.rmtree(work / "out", ignore_errors=True)
        killed = run_job(job, work, **kill).status != 0
        counts["killed" if killed else "had ended"] += 1
        counts["killed with a part of the output there"] += killed and bool(read_output(work))
        status, output = run_job(job, work).status, read_output(work)
        differing = sorted(name for name, digest in expected.items() if output.get(name) != digest)
        extra = [
            name
            for name in sorted(output.keys() - first.keys())
            if not any(part.startswith(".") for part in Path(name).parts)
        ]
        if status or differing or extra:
            log = (work / "log").read_text()[-500:] if status else ""
            fault = {"status": status, "differing": differing, "extra": extra, "log": log}
            faults.append(kill | fault)
    return {
        "moments": moments,
        "seconds": round(ending.seconds, 2),
        "writes": ending.writes,
        "files_compared": len(expected),
        "files_not_compared": sorted(first.keys() - expected.keys()),
        "counts": dict(counts),
        "faults": faults,
    }


def warm(work: Path, jobs: list[Job]) -> None:
    """Run every job once in this process, so that a forked one has all modules and starts at once."""
    for job in jobs:
        try:
            run_command(job)
        except SystemExit as leaving:
            if leaving.code:
                raise
        shutil.rmtree(work / "out", ignore_errors=True)


def main() -> None:
    """Run the study and write its result."""
    parser = parse(__doc__, "crash", threads=None)
    parser.add_argument("--moments", type=int, default=9, help="kills of every job (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", help="names of jobs with commas; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recorder = Recorder()  # before the jobs put their command in the place of this one
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = options.jobs.split(",") if options.jobs else None
        jobs = [job for job in make_jobs(work) if names is None or job.name in names]
        warm(work, jobs)
        for job in jobs:
            results[job.name] = study(job, work, options.moments, options.seed)
            print(job.name, json.dumps(results[job.name]), file=sys.stderr, flush=True)
            recorder.write(options.out, {"seed": options.seed, "jobs": results})


if __name__ == "__main__":
    main()
