"""From a data folder to the shipped weights: base, gate, hypernetwork, multi-task adapter, reports.

Each stage writes its own folder and is skipped when that folder is complete, so an interrupted
run goes on where it stopped. Tasks of whole source groups are set aside for every choice made on
the way; `dev_heldout` is read once, by the last stage, which reports on it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from text_to_lora.baselines.prompting import Base, InPrompt
from text_to_lora.encoders.load import load_encoder
from text_to_lora.encoders.minilm import package_folder
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.obedience import run_obedience
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.files import read_json, write_file, write_folder, write_json
from text_to_lora.hypernet.checkpoint import fingerprint, load_hypernet, save_hypernet
from text_to_lora.hypernet.layers import has_fast_product
from text_to_lora.lora.peft_format import load_adapter, save_adapter
from text_to_lora.serving.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.serving.sources import EMBEDDED_BASE
from text_to_lora.tasks.families import families
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.base import (
    BasePlan,
    InstructionRows,
    bits_per_character,
    train_base,
    warm_start,
)
from text_to_lora.training.base_tokenizer import ANSWER, END, INPUT, TASK, build_tokenizer
from text_to_lora.training.card import licence_table, render_card
from text_to_lora.training.config import load_recipe
from text_to_lora.training.data import TaskSplit, load_tasks, split_by_group
from text_to_lora.training.sft import train_sft

NUM_FAMILY_TASKS = 3200
VOCAB_SIZE = 12_000  # pieces that occur; keeps base and hypernetwork within 48 MB
GATE_ROWS = 20  # rows of each task set aside
HELDOUT_ROWS = 20  # rows of each unseen task
RATES = {"embedded": (5e-4, 1.5e-3), "embedded-multitask": (1e-3, 4e-3)}
TRIAL_STEPS = 100
EMBEDDED_AT_ONCE = 4096  # descriptions of one file of the cache


def task_texts(tasks: Sequence[Task], *, seed: int) -> Iterator[str]:
    """Descriptions, inputs and answers of training rows, in a shuffled order."""
    draw = random.Random(seed)
    pairs = [(task, example) for task in tasks for example in task.training()]
    draw.shuffle(pairs)
    for task, example in pairs:
        yield (
            f"{TASK} {draw.choice(task.descriptions)} {INPUT} {example.input} "
            f"{ANSWER} {example.outputs[0]}{END}"
        )


def book_texts(data: Path, part: str, *, characters: int) -> Iterator[str]:
    """Documents of the text corpus, cut to 4,000 characters each, `characters` in all."""
    read = 0
    for text in pq.read_table(data / "pretrain" / f"{part}.parquet")["text"].to_pylist():
        for start in range(0, min(len(text), 40_000), 4_000):
            if read >= characters:
                return
            yield text[start : start + 4_000]
            read += 4_000


def pack(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], tokens: int) -> Tensor:
    """Token ids of texts on end, cut to `tokens`."""
    ids: list[int] = []
    while len(ids) < tokens and (batch := list(islice(texts, 256))):
        for row in tokenizer(batch, add_special_tokens=False).input_ids:
            ids += row
    return torch.tensor(ids[:tokens], dtype=torch.long)


def build_base(
    data: Path,
    encoder_folder: Path,
    output: Path,
    plan: BasePlan,
    *,
    num_family_tasks: int = NUM_FAMILY_TASKS,
    vocab_size: int = VOCAB_SIZE,
    report: Callable[[str], None],
) -> Path:
    """Train the embedded base; gives the folder that `AutoModelForCausalLM` loads.

    data: folder of task collections with `pretrain/`; encoder_folder: the encoder started from
    num_family_tasks: synthetic tasks beside those of `data`; vocab_size: word pieces kept
    output: receives `base/` when done and `base-run/` on the way
    """
    folder = output / "base"
    if folder.is_dir():
        return folder
    tasks, _ = split_by_group(load_data_dir(data, split="train"))
    synthetic = families(tasks, seed=plan.seed, split="train", num_tasks=num_family_tasks)
    described = [*tasks, *synthetic]
    report(f"{len(tasks)} tasks, {len(synthetic)} family tasks")
    run = output / "base-run"
    run.mkdir(parents=True, exist_ok=True)
    texts = [
        *_head(task_texts(described, seed=1), 40_000),
        *book_texts(data, "train", characters=8_000_000),
    ]
    tokenizer, origin = build_tokenizer(encoder_folder, texts, vocab_size=vocab_size)
    needed = plan.text_steps * plan.text_rows * plan.window
    text = torch.cat(
        [
            pack(tokenizer, task_texts(described, seed=2), needed // 2),
            pack(tokenizer, book_texts(data, "train", characters=8_000_000), needed // 2),
        ]
    )
    torch.manual_seed(plan.seed)
    model = warm_start(encoder_folder, tokenizer, origin)
    report(f"{model.num_parameters():,} parameters, {len(text):,} tokens of text")
    rows = InstructionRows(tokenizer, tasks, synthetic, plan)
    bfloat16 = has_fast_product(torch.bfloat16, torch.device("cpu"))
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    measured = train_base(model, plan, text, rows, run, dtype=dtype, report=report)
    valid = list(book_texts(data, "valid", characters=400_000))
    facts = {
        **measured,
        "plan": asdict(plan),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
        "bits_per_character": bits_per_character(model, tokenizer, valid),
        "num_tasks": len(tasks),
        "num_family_tasks": len(synthetic),
    }
    with write_folder(folder) as temporary:
        model.bfloat16().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "training.json", facts)
    report(json.dumps(facts))
    return folder


def check_gate(data: Path, output: Path, *, report: Callable[[str], None]) -> None:
    """Score the base on tasks set aside, with and without the description in the prompt.

    Raises ConfigError unless the description lowers the answers' NLL with an interval clear of
    zero: a hypernetwork would have nothing to tell a base that does not use what it is told.
    """
    _, aside = split_by_group(load_data_dir(data, split="train"))
    base, tokenizer = load_base(output / "base")
    gate = evaluate_suite(
        base=base,
        tokenizer=tokenizer,
        tasks=aside,
        baselines=[Base(), InPrompt()],
        output_dir=output / "gate",
        rows_per_task=GATE_ROWS,
        label_likelihood=False,
        progress=report,
    )
    told = gate["differences"]["in_prompt - base"]["nll"]
    if not (told["clear_of_zero"] and told["mean"] < 0):
        raise ConfigError(
            f"the description in the prompt changes the base's answer NLL by {told['mean']:+.3f} "
            f"[{told['low']:+.3f}, {told['high']:+.3f}], not clearly below zero; "
            "train the base for longer"
        )


def train_adapters(
    data: Path,
    output: Path,
    *,
    settings: Sequence[str] = (),
    trial_steps: int = TRIAL_STEPS,
    report: Callable[[str], None],
) -> None:
    """Train the hypernetwork and the multi-task adapter on the same rows, side by side.

    The learning rate of each is the one of its `RATES` that validated best after `trial_steps`.
    settings: overrides of both recipes, "section.field=value"
    """
    settings = [*_settings(data, output), *settings]
    trials = {
        f"{recipe}-{rate:g}": (recipe, rate, trial_steps)
        for recipe, rates in RATES.items()
        for rate in rates
    }
    losses = _train_all(trials, settings, output / "trials", report=report)
    best = {
        recipe: min(rates, key=lambda rate: losses[f"{recipe}-{rate:g}"])
        for recipe, rates in RATES.items()
    }
    write_json(output / "rates.json", {"steps": trial_steps, "losses": losses, "best": best})
    report(f"learning rates {best}")
    runs = {recipe: (recipe, rate, None) for recipe, rate in best.items()}
    _train_all(runs, settings, output, report=report)


def _train_all(
    runs: Mapping[str, tuple[str, float, int | None]],
    settings: Sequence[str],
    folder: Path,
    *,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Train runs of (recipe, learning rate, steps), two at a time with half of the cores each.

    Small products gain little from a second thread, so two runs side by side take less time than
    one after the other. Returns the best validation loss of each.
    """
    threads = max(1, (os.cpu_count() or 2) // 2)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        started = {
            name: pool.submit(_train_one, *run, settings, folder / name)
            for name, run in runs.items()
        }
        losses = {}
        for name, future in started.items():
            losses[name] = future.result()
            report(f"{name}: validation loss {losses[name]:.4f}")
    return losses


def _settings(data: Path, output: Path) -> list[str]:
    return [
        f"base.name={output / 'base'}",
        f"base.alias={EMBEDDED_BASE}",
        f"data.data_dir={data}",
        f"encoder.cache_dir={output / 'embeddings'}",
    ]


def _train_one(
    recipe: str, rate: float, steps: int | None, settings: Sequence[str], folder: Path
) -> float:
    """Train one run unless it is complete; give its best validation loss."""
    settings = [*settings, f"optimizer.lr={rate}"]
    if steps is not None:
        settings += [f"run.steps={steps}", f"run.eval_every={steps}"]
    train_sft(load_recipe(recipe, settings), output_dir=folder)
    return float(read_json(folder / "result.json")["best_loss"])


def embed_descriptions(data: Path, output: Path, *, report: Callable[[str], None]) -> None:
    """Embed every description once, into the cache that all runs read."""
    config = load_recipe("embedded", _settings(data, output))
    split = TaskSplit.make(load_tasks(config.data), config.data)
    tasks = [*split.training, *(task for part in split.evaluation.values() for task in part)]
    texts = list(dict.fromkeys(text for task in tasks for text in task.descriptions))
    encoder = load_encoder(config.encoder.name, cache_dir=config.encoder.cache_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", T2LWarning)  # each run sums up which are too long
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            encoder.encode(texts[start : start + EMBEDDED_AT_ONCE])
            done = min(start + EMBEDDED_AT_ONCE, len(texts))
            report(f"descriptions embedded: {done:,} of {len(texts):,}")


def gather_package(output: Path) -> Path:
    """Gather what ships in `output/package`, in bfloat16: base, hypernet, multitask."""
    package = output / "package"
    if package.is_dir():
        return package
    base, _ = load_base(output / "base")
    loaded = load_hypernet(output / "embedded" / "hypernet")
    multitask = load_adapter(output / "embedded-multitask" / "adapter", base_config=base.config)
    with write_folder(package) as temporary:
        shutil.copytree(output / "base", temporary / "base")
        save_hypernet(
            temporary / "hypernet",
            loaded.hypernet,
            loaded.encoder,
            training=loaded.training,
            dtype=torch.bfloat16,
        )
        save_adapter(multitask, temporary / "multitask", dtype=torch.bfloat16)
    return package


def report_heldout(data: Path, output: Path, *, report: Callable[[str], None]) -> None:
    """Score what ships on the unseen tasks with all controls, and on obedience."""
    package = output / "package"
    base, tokenizer = load_base(package / "base")
    t2l = TextToLora.from_pretrained(package / "hypernet")
    tasks = load_data_dir(data, split="dev_heldout")
    sources = Sources(
        generate=lambda texts: t2l.generate(texts).weights,
        multitask=load_adapter(package / "multitask", base_config=base.config),
    )
    evaluate_suite(
        base=base,
        tokenizer=tokenizer,
        tasks=tasks,
        baselines=plan_conditions(None, tasks, sources, seed=0),
        output_dir=output / "heldout",
        rows_per_task=HELDOUT_ROWS,
        progress=report,
    )
    run_obedience(
        base=base,
        tokenizer=tokenizer,
        generate=lambda texts: t2l.generate(texts).weights,
        output_dir=output / "obedience",
    )


def build_all(data: Path, output: Path, *, report: Callable[[str], None]) -> Path:
    """Make the embedded default from a data folder; gives the folder of what ships.

    data: task collections with a splits.json and `pretrain/`
    output: each stage writes a folder of its own in it, which is skipped when it is complete
    """
    build_base(data, package_folder(), output, BasePlan(), report=report)
    check_gate(data, output, report=report)
    embed_descriptions(data, output, report=report)
    train_adapters(data, output, report=report)
    package = gather_package(output)
    report_heldout(data, output, report=report)
    write_facts(data, output)
    card = render_card(output)
    write_file(package / "README.md", lambda path: _write_text(path, card))
    return package


def write_facts(data: Path, output: Path) -> dict[str, Any]:
    """Write and give what the card says of data, sizes, machine and command: `facts.json`."""
    trained, _ = split_by_group(load_data_dir(data, split="train"))
    hypernet = load_hypernet(output / "package" / "hypernet").hypernet
    base = read_json(output / "base" / "training.json")
    runs = [read_json(output / recipe / "result.json") for recipe in RATES]
    facts = {
        "hypernet_steps": runs[0]["step"],
        # of the base and of the two runs side by side; trials and reports not counted
        "seconds": base["seconds"] + max(run["seconds"] for run in runs),
        "hypernet": fingerprint(output / "package" / "hypernet"),
        "hypernet_parameters": hypernet.num_parameters,
        "adapter_parameters": hypernet.spec.num_parameters,
        "machine": f"{os.cpu_count()} cores of {_cpu_name()}, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"t2l train embedded --data DIR -o {output.name}",
        "licences": licence_table(trained),
    }
    write_json(output / "facts.json", facts)
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _head(texts: Iterator[str], count: int) -> Iterator[str]:
    return (text for _, text in zip(range(count), texts, strict=False))
