"""From a data folder to the shipped weights: tokenizer, base, gate, hypernetwork, multi-task adapter.

Each stage writes its own folder and is skipped when that folder is complete, so an interrupted
run goes on where it stopped. Tasks of whole source groups are set aside for every choice made on
the way; `dev_heldout`, `benchmarks` and `eval_only` are not read here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import AutoTokenizer, BertLMHeadModel, PreTrainedTokenizerFast

from text_to_lora.files import write_folder, write_json
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

SET_ASIDE = 16  # one source group in this many, by hash of its name, is kept for validation
NUM_FAMILY_TASKS = 1600
VOCAB_SIZE = 12_000  # pieces that occur; keeps base and hypernetwork within 48 MB


def set_aside(tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """Split training tasks into (trained on, kept for validation) by whole source groups."""

    def kept(task: Task) -> bool:
        return int(sha256(task.group.encode()).hexdigest(), 16) % SET_ASIDE == 0

    return [task for task in tasks if not kept(task)], [task for task in tasks if kept(task)]


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
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 256:
            for row in tokenizer(batch, add_special_tokens=False).input_ids:
                ids += row
            batch.clear()
            if len(ids) >= tokens:
                break
    return torch.tensor(ids[:tokens])


def build_base(
    data: Path,
    encoder_folder: Path,
    output: Path,
    plan: BasePlan,
    *,
    report: Callable[[str], None],
) -> Path:
    """Train the embedded base; gives the folder that `AutoModelForCausalLM` loads.

    data: folder of task collections with `pretrain/`; encoder_folder: the encoder started from
    output: receives `base/` when done and `base-run/` on the way
    """
    folder = output / "base"
    if folder.is_dir():
        return folder
    tasks, _ = set_aside(load_data_dir(data, split="train"))
    synthetic = families(tasks, seed=plan.seed, split="train", num_tasks=NUM_FAMILY_TASKS)
    described = [*tasks, *synthetic]
    report(f"{len(tasks)} tasks, {len(synthetic)} family tasks")
    run = output / "base-run"
    run.mkdir(parents=True, exist_ok=True)
    texts = [
        *_head(task_texts(described, seed=1), 40_000),
        *book_texts(data, "train", characters=8_000_000),
    ]
    tokenizer, origin = build_tokenizer(encoder_folder, texts, vocab_size=VOCAB_SIZE)
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
    measured = train_base(model, plan, text, rows, run, report=report)
    valid = list(book_texts(data, "valid", characters=400_000))
    facts = {
        **measured,
        "plan": asdict(plan),
        "parameters": model.num_parameters(),
        "bits_per_character": bits_per_character(model, tokenizer, valid),
        "num_tasks": len(tasks),
        "num_family_tasks": len(synthetic),
    }
    with write_folder(folder) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "training.json", facts)
    report(json.dumps(facts))
    return folder


def load_built_base(folder: Path) -> tuple[BertLMHeadModel, PreTrainedTokenizerFast]:
    """The base of `build_base` in fp32, with its tokenizer."""
    model = BertLMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model, tokenizer


def _head(texts: Iterator[str], count: int) -> Iterator[str]:
    return (text for _, text in zip(range(count), texts, strict=False))
