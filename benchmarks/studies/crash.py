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

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pyarrow.parquet
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.lib import RESULTS, command, machine
from text_to_lora.cli import main as t2l
from text_to_lora.encoders import load_encoder
from text_to_lora.files import content_hash, file_hash, read_json, write_json
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library
from text_to_lora.lora import LoraSpec

COLOURS = ("red", "green", "blue", "grey")
WRITES = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
MAX_SECONDS = 900.0  # of one run
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Job:
    """A command that is killed and repeated; it writes below the folder `out` of its work folder."""

    name: str
    arguments: tuple[str, ...]


def make_jobs(work: Path) -> list[Job]:
    """Write what the jobs read: a base, tasks, a hypernetwork, a library and adapters."""
    base, out = save_base(work / "base"), str(work / "out")
    tasks = save_tasks(work / "tasks")
    spec = LoraSpec.from_config(
        LlamaConfig.from_pretrained(base), targets=["q_proj", "v_proj"], rank=4, name=str(base)
    )
    settings = HypernetConfig(head="joint", embedding_dim=32, latent_size=16, head_in_size=24)
    hypernet = Hypernetwork.from_config(settings, spec, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in hypernet.named_parameters():
        if name.startswith("head"):  # which starts at zero, so that its adapters would be zero
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_hypernet(work / "hypernet", hypernet, load_encoder("hash").config, training={"steps": 3})
    texts = [f"Say {colour}." for colour in COLOURS]
    adapters = TextToLora.from_pretrained(work / "hypernet").generate(texts)
    adapters.save(work / "adapters")
    entries = [LibraryEntry(f"say-{c}", (text,)) for c, text in zip(COLOURS, texts, strict=True)]
    save_library(AdapterLibrary(adapters.weights, entries), work / "library")
    (work / "texts.txt").write_text("\n".join(f"Say {number}." for number in range(24)))
    model = {"name": str(base), "dtype": "float32"}
    sizes = {"latent_size": 8, "head_in_size": 16, "dropout": 0.2}
    run = {"steps": 4, "log_every": 2, "eval_every": 2, "save_every": 2, "device": "cpu"}
    lora = {"targets": "all-linear", "rank": 2, "alpha": 4}
    data = {
        "folders": [str(tasks / "own")],
        "max_prompt_tokens": 64,
        "max_answer_tokens": 16,
        "eval_rows": 2,
    }
    sft: dict[str, Any] = {
        "base": model,
        "adapter": lora,
        "encoder": {"name": "hash"},
        "hypernet": sizes,
        "run": run,
    }
    sft["optimizer"] = {"lr": 0.01}
    sft["data"] = data | {"validation_one_in": 3, "family_tasks": 0, "family_share": 0}
    sft["data"] |= {"tasks_per_batch": 2, "examples_per_task": 2, "max_description_tokens": 64}
    reconstruct = {
        "verb": "reconstruct",
        "encoder": {"name": "hash"},
        "hypernet": sizes,
        "run": run,
    }
    reconstruct["data"] = {"library": str(work / "library"), "tasks_per_batch": 2}
    reconstruct["conditioning"] = {"kind": "text"}
    joint: dict[str, Any] = {
        "verb": "adapters",
        "base": model,
        "adapter": lora,
        "optimizer": {"lr": 0.01},
    }
    joint["data"] = data | {"validation_one_in": 0}
    joint["run"] = {
        "rows": 8,
        "batch_size": 2,
        "eval_every": 2,
        "tasks_at_once": 2,
        "tokens_per_pass": 200,
    }
    joint["run"] |= {"save_every": 2, "device": "cpu"}
    recipes = {"reconstruct": reconstruct, "adapters": joint, "sft": sft}
    for name, recipe in recipes.items():
        (work / f"{name}.yaml").write_text(json.dumps(recipe))
    suite = (
        "eval",
        "suite",
        "--tasks",
        str(tasks),
        "-m",
        str(work / "hypernet"),
        "-o",
        f"{out}/suite",
    )
    conditions = ("--rows", "2", "--max-new-tokens", "2", "--conditions", "base,matched")
    add = ("library", "add", str(work / "adapters"), "-o", f"{out}/library", "--overwrite")
    many = ("generate", "--from-file", str(work / "texts.txt"), "-m", str(work / "hypernet"))
    train = {n: ("train", n, str(work / f"{n}.yaml"), "-o", f"{out}/run") for n in recipes}
    return [
        Job("generate", (*many, "-o", f"{out}/many", "--overwrite")),
        Job("library add", add),
        Job("eval suite", (*suite, *conditions)),
        *(Job(name, arguments) for name, arguments in train.items()),
        Job("adapters in two processes", (*train["adapters"], "--processes", "2")),
    ]


def save_base(folder: Path) -> Path:
    """Write a random Llama whose tokens are bytes."""
    special = ("<pad>", "</s>", "<unk>")
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    names = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "padding_side": "left",
    }
    make_tokenizer: Any = PreTrainedTokenizerFast
    make_tokenizer(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids: dict[str, Any] = {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "vocab_size": len(tokens),
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **ids, max_position_embeddings=256)).save_pretrained(
        folder
    )
    return folder


def save_tasks(root: Path) -> Path:
    """Write four tasks of 20 rows, each with one answer, as training tasks and as held-out ones."""
    (root / "own").mkdir(parents=True)
    tasks = [
        {
            "id": f"say-{colour}",
            "descriptions": [f"Say {colour}.", f"The answer is always {colour}."],
            "metric": {"kind": "classification", "labels": [colour, "black"]},
        }
        for colour in COLOURS
    ]
    rows = [
        {"task_id": f"say-{colour}", "idx": i, "input": "x" * (3 * i % 20 + 1), "outputs": [colour]}
        for colour in COLOURS
        for i in range(20)
    ]
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "splits.json").write_text(json.dumps({"dev_heldout": [task["id"] for task in tasks]}))
    return root


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
    kill_after: float | None = None,
    kill_at_write: int | None = None,
) -> Ending:
    """Run something in a forked process.

    folder: below which writes are counted; log: takes what is printed
    kill_after: seconds until it is killed; kill_at_write: number of the write before which it is
    """
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_and_exit(action, str(folder), log, writing, kill_at_write)
    os.close(writing)
    while True:
        seconds = time.perf_counter() - started
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with os.fdopen(reading) as pipe:
                writes = int(pipe.read() or 0)
            return Ending(os.waitstatus_to_exitcode(status), seconds, writes)
        if seconds > (MAX_SECONDS if kill_after is None else kill_after):
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _run_and_exit(
    action: Callable[[], object], folder: str, log: Path, pipe: int, kill_at_write: int | None
) -> NoReturn:
    """Run something, tell its number of writes, and perhaps kill this process before one of them."""
    code: object = 1
    writes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal writes
        if event not in WRITES or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not (arguments[2] or 0) & _WRITE_FLAGS:
            return
        writes += 1
        if writes == kill_at_write:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.stdout = sys.stderr = log.open("w")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        sys.addaudithook(count)
        action()
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os.write(pipe, str(writes).encode())
        os._exit(code if isinstance(code, int) else 1)


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
    return {
        str(file.relative_to(out)): _hash(file) for file in sorted(out.rglob("*")) if file.is_file()
    }


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
    expected = {
        name: digest
        for name, digest in undisturbed[0].items()
        if undisturbed[1].get(name) == digest
    }
    not_compared = sorted(undisturbed[0].keys() - expected.keys())
    counts: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    for number in range(moments):
        rng = random.Random(f"{seed}/{job.name}/{number}")
        at_write = number % 2 == 1
        place = rng.randint(1, ending.writes) if at_write else rng.uniform(0, ending.seconds)
        shutil.rmtree(work / "out", ignore_errors=True)
        kill: dict[str, Any] = {"kill_at_write" if at_write else "kill_after": place}
        status = run_job(job, work, **kill).status
        counts["killed" if status else "had ended"] += 1
        left = read_output(work)
        counts["killed with a part of the output there"] += status != 0 and bool(left)
        status = run_job(job, work).status
        output = read_output(work)
        hidden = {name for name in output if any(part.startswith(".") for part in Path(name).parts)}
        counts["hidden leftovers"] += bool(hidden)
        differing = sorted(name for name, digest in expected.items() if output.get(name) != digest)
        extra = sorted(output.keys() - undisturbed[0].keys() - hidden)
        if status or differing or extra:
            log = (work / "log").read_text()[-500:] if status else ""
            faults.append(
                {**kill, "status": status, "differing": differing, "extra": extra, "log": log}
            )
    return {
        "moments": moments,
        "seconds": round(ending.seconds, 2),
        "writes": ending.writes,
        "files_compared": len(expected),
        "files_not_compared": not_compared,
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--moments", type=int, default=9, help="kills of every job; 63 of all seven by default"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", help="names of jobs with commas; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "crash.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = command()  # before the jobs put theirs in its place
    facts = {
        "seed": options.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
    }
    earlier = read_json(options.out) if options.out.exists() else {}
    results: dict[str, Any] = earlier["jobs"] if earlier.get("seed") == options.seed else {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = options.jobs.split(",") if options.jobs else None
        jobs = [job for job in make_jobs(work) if names is None or job.name in names]
        warm(work, jobs)
        for job in jobs:
            result = study(job, work, options.moments, options.seed)
            results[job.name] = result | {"command": given}
            print(job.name, json.dumps(results[job.name]), file=sys.stderr, flush=True)
            write_json(options.out, {**facts, "jobs": results})


if __name__ == "__main__":
    main()
