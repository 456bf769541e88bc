"""What adapters cost at the shapes of Mistral-7B: operations, and seconds, memory and bytes measured.

    python -m benchmarks.speed.cost [--cells generate-L-1 merge-1]

Rank 8 on q_proj and v_proj; hypernetworks L, M and S of the paper's sizes and a text encoder of
gte-large's, all with random weights, which decide neither speed nor size. One JSON holds all cells;
what is there is not made again. Each measurement is a process of its own, and memory is the largest
size of that process beyond the size that it has with torch loaded.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedConfig

from benchmarks.lib import Recorder, memory_bytes, parse, random_adapters, reset_peak, run_alone
from text_to_lora.analysis.cost import BaseCost, Cost, Question, make_encoder
from text_to_lora.files import read_json, write_json
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.library.library import LibraryEntry, load_library, write_library
from text_to_lora.lora import LoraSpec, adapted, load_adapter, merge, save_adapter
from text_to_lora.lora.outline import build_meta_model

HEADS: Final[dict[str, Any]] = {"L": "joint", "M": "shared", "S": "rank"}
COUNTS: Final = (1, 16, 256)
MISTRAL: Final = "mistralai/Mistral-7B-Instruct-v0.2"
EMBEDDING_DIM: Final = 1024  # gte-large-en-v1.5
QUESTION: Final = Question(prompt=64, answer=16, shots=3, description=36)
DTYPE: Final = torch.bfloat16  # of hypernetworks and adapters
ROUNDS: Final = 3  # at most, of which the median counts
ROUND_SECONDS: Final = 15.0  # after these no further round begins
GENERATED_TOGETHER: Final = 16  # descriptions in one pass of the hypernetwork
ENCODED_AT_MOST: Final = 16  # descriptions; more are as many times as long
MERGED_AT_MOST: Final = 2  # switches; more are as many times as long
MERGED_BYTES: Final = 2**29  # of target matrices; layers beyond are scaled
PROMPT_ROWS: Final = 16  # at most, of the batch that reads PROMPT_TOKENS a row
PROMPT_TOKENS: Final = 8

Result = dict[str, Any]
Job = tuple[str, tuple[str, ...], int]
"""The hypernetwork, the parts and the number of adapters of a cell that is measured."""


@dataclass(frozen=True)
class Setting:
    """Shapes of what is measured.

    config: of the base; hypernet: sizes, with random weights; encoder: "gte" or "minilm"
    description: its tokens
    """

    spec: LoraSpec
    hypernet: HypernetConfig
    config: PreTrainedConfig
    encoder: str = "gte"
    description: int = QUESTION.description


class Meter:
    """Time and memory from here on; what is in memory already does not count."""

    def __init__(self) -> None:
        self.before = reset_peak()

    def time(self, run: Callable[[], Any], rounds: int = ROUNDS, warm_up: bool = True) -> Result:
        """Seconds of a round in the median, and the peak of memory.

        cpu_seconds are those of the process, which other work on the machine disturbs less.
        """
        if warm_up:
            run()
        times: list[tuple[float, float]] = []
        started = time.perf_counter()
        while len(times) < rounds and (not times or time.perf_counter() - started < ROUND_SECONDS):
            wall, cpu = time.perf_counter(), time.process_time()
            result = run()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
            del result
        return {
            "seconds": statistics.median(wall for wall, _ in times),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
            "rounds": len(times),
            "peak_bytes": max(0, memory_bytes("VmHWM") - self.before),
        }


def scale(times: Result, wanted: int, measured: int) -> Result:
    """Times of all where some were measured; `scaled` says by how much they were multiplied."""
    if wanted == measured:
        return times
    factor = wanted / measured
    longer = {key: times[key] * factor for key in ("seconds", "cpu_seconds")}
    return times | longer | {"scaled": factor}


def encode(setting: Setting, count: int, work: Path) -> Result:
    """Descriptions to task embeddings, in one batch."""
    meter = Meter()
    model = make_encoder(setting.encoder)
    batch = min(count, ENCODED_AT_MOST)
    tokens = torch.randint(0, 30_000, (batch, setting.description))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    times = meter.time(lambda: model(input_ids=tokens).last_hidden_state)
    return scale(times, count, batch) | {"disk_bytes": 4 * parameters}


def generate(setting: Setting, count: int, work: Path) -> Result:
    """Task embeddings to adapters, which all stay in memory; the hypernetwork is resident."""
    meter, generator = Meter(), torch.Generator().manual_seed(0)
    hypernet = Hypernetwork.from_config(setting.hypernet, setting.spec, generator, as_lora=False)
    hypernet = hypernet.to(DTYPE).eval()
    parts = torch.split(torch.randn(count, setting.hypernet.embedding_dim), GENERATED_TOGETHER)
    times = meter.time(lambda: [hypernet(part) for part in parts])
    return times | {"disk_bytes": DTYPE.itemsize * hypernet.num_parameters}


def write(setting: Setting, count: int, work: Path) -> Result:
    """The same adapters as one library and as PEFT folders, below `work`."""
    adapter = random_adapters(setting.spec, 1, dtype=DTYPE)
    entries = [LibraryEntry(f"task-{number}") for number in range(count)]

    def write_one() -> None:
        same = (adapter for _ in range(count))
        write_library(work / "library", setting.spec, entries, same, dtype=DTYPE)

    def write_folders() -> None:
        for number in range(count):
            save_adapter(adapter, work / "folders" / str(number))

    meter = Meter()
    times = {"library": meter.time(write_one, 1, warm_up=False)}
    times["folders"] = meter.time(write_folders, 1, warm_up=False)
    return {name: time | {"disk_bytes": disk_bytes(work / name)} for name, time in times.items()}


def read_library(setting: Setting, count: int, work: Path) -> Result:
    """All adapters of a library: mapped, hashes checked, numbers checked."""
    return load(work / "library", lambda: load_library(work / "library").weights)


def read_folders(setting: Setting, count: int, work: Path) -> Result:
    """Each adapter from its own PEFT folder."""
    folders = [work / "folders" / str(number) for number in range(count)]
    return load(work / "folders", lambda: [load_adapter(f, spec=setting.spec) for f in folders])


def load(folder: Path, run: Callable[[], Any]) -> Result:
    """First with the files dropped from the page cache, then warm."""
    meter = Meter()
    for file in files(folder):  # the system is asked to forget what it has cached of them
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    cold = meter.time(run, 1, warm_up=False)
    return meter.time(run) | {"cold": cold, "disk_bytes": disk_bytes(folder)}


def apply(setting: Setting, count: int, work: Path) -> Result:
    """A layer of the base over a batch whose every row has its own adapter, beside no adapter."""
    config, spec = shrink(setting, layers=1)
    make: Any = AutoModelForCausalLM.from_config
    model = make(config, dtype=torch.float32).eval()
    weights, layers = random_adapters(spec, count, scale=0.01, dtype=DTYPE), setting.spec.num_layers
    result: Result = {}
    for name, tokens in (("one_token", 1), ("prompt", PROMPT_TOKENS)):
        if tokens > 1 and count > PROMPT_ROWS:
            continue
        ids = torch.randint(0, config.vocab_size, (count, tokens))
        meter, run = Meter(), partial(model, input_ids=ids, use_cache=False)
        base = meter.time(run)["cpu_seconds"]
        start = time.perf_counter()
        with adapted(model, weights, range(count)):
            entered = time.perf_counter() - start
            adapter = meter.time(run)["cpu_seconds"] - base
        per_token = layers / (count * tokens)
        result[name] = {
            "rows": count,
            "tokens_a_row": tokens,
            "base_cpu_seconds_per_token": base * per_token,
            "adapter_cpu_seconds_per_token": adapter * per_token,
            "enter_seconds": entered * layers,
        }
    return result


def switch(setting: Setting, count: int, work: Path) -> Result:
    """Switches between merged adapters: the target matrices back to the base's, then the next one.

    The matrices have numbers, the rest of the model has none.
    """
    layers = setting.spec.num_layers
    numbers = sum(slot.in_features * slot.out_features for slot in setting.spec.slots)
    measured = max(1, min(layers, MERGED_BYTES * layers // (numbers * DTYPE.itemsize)))
    config, spec = shrink(setting, layers=measured)
    meter = Meter()
    model: Any = build_meta_model(config)
    targets = [model.get_submodule(spec.module_name(s.layer, s.module)) for s in spec.slots]
    for module in targets:
        weight = torch.empty(module.weight.shape, dtype=DTYPE).uniform_(-0.02, 0.02)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    originals = [module.weight.clone() for module in targets]
    (adapter,) = random_adapters(spec, 1, scale=0.01, dtype=DTYPE).unbind()
    switches = min(count, MERGED_AT_MOST)

    def run() -> None:
        for _ in range(switches):
            for module, original in zip(targets, originals, strict=True):
                module.weight.copy_(original)
            merge(model, adapter)

    return scale(meter.time(run), count * layers, switches * measured)


PARTS: Final[dict[str, Callable[[Setting, int, Path], Result]]] = {
    "encode": encode,
    "generate": generate,
    "write": write,
    "load-library": read_library,
    "load-folders": read_folders,
    "apply": apply,
    "merge": switch,
}


def shrink(setting: Setting, *, layers: int) -> tuple[Any, LoraSpec]:
    """The base with fewer layers and a vocabulary of 256, and its spec with the same modules."""
    config: Any = copy.deepcopy(setting.config)
    config.num_hidden_layers, config.vocab_size = layers, 256
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    targets = sorted({group.module for group in setting.spec.groups})
    return config, LoraSpec.from_config(config, targets=targets, rank=setting.spec.rank)


def files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in files(folder))


def mistral() -> MistralConfig:
    """The configuration of Mistral-7B-Instruct-v0.2, which has no window."""
    return MistralConfig(sliding_window=None, bos_token_id=None, eos_token_id=None)


def mistral_spec() -> LoraSpec:
    """Rank 8 on q_proj and v_proj of Mistral-7B."""
    targets = ["q_proj", "v_proj"]
    return LoraSpec.from_config(mistral(), targets=targets, rank=8, rslora=True, name=MISTRAL)


def make_setting(head: str) -> Setting:
    """One architecture at the paper's sizes."""
    sizes = HypernetConfig(head=HEADS[head], embedding_dim=EMBEDDING_DIM)
    return Setting(mistral_spec(), sizes, mistral())


def cells() -> dict[str, Job | None]:
    """Every cell by name; None for the figures that follow from shapes.

    What is written is read in the same cell, since the files go afterwards.
    """
    jobs: dict[str, Job | None] = {"facts": None}
    for count in COUNTS:
        jobs[f"disk-{count}"] = "L", ("write", "load-library", "load-folders"), count
        jobs |= {f"generate-{head}-{count}": (head, ("generate",), count) for head in HEADS}
        jobs |= {f"{part}-{count}": ("L", (part,), count) for part in ("encode", "apply", "merge")}
    return jobs


def measure(head: str, part: str, count: int, work: Path) -> Result:
    """One measurement in this process."""
    with torch.no_grad():
        return PARTS[part](make_setting(head), count, work)


def make_cell(head: str, parts: tuple[str, ...], count: int, threads: int) -> Result:
    """The measurements of a cell, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="t2l-cost-") as work:
        measured: dict[str, Result] = {
            part: run_alone(threads, measure, head, part, count, Path(work)) for part in parts
        }
    return {"adapters": count} | (measured if len(parts) > 1 else measured[parts[0]])


def facts() -> Result:
    """Every figure that follows from shapes."""
    base, most = BaseCost(mistral(), MISTRAL), {"adapters": max(COUNTS), "questions": 100}
    settings = {head: make_setting(head) for head in HEADS}
    return {
        head: Cost(base, of.spec, of.hypernet, of.encoder).to_dict(QUESTION, **most)
        for head, of in settings.items()
    }


def main() -> None:
    """Make the cells that are not there yet, each written down at once."""
    parser = parse(__doc__, "cost", threads=1)
    jobs = cells()
    parser.add_argument("--cells", nargs="+", choices=jobs, default=list(jobs), metavar="CELL")
    options = parser.parse_args()
    result = read_json(options.out) if options.out.exists() else {"cells": {}}
    for name in options.cells:
        if name in result["cells"]:
            print(f"{name}: finished before", flush=True)
            continue
        recorder, job = Recorder(threads=options.threads), jobs[name]
        cell = make_cell(*job, options.threads) if job else facts()
        result["cells"][name] = recorder.complete(cell)
        write_json(options.out, result)
        print(f"{name}: finished", flush=True)


if __name__ == "__main__":
    main()
