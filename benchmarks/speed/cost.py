"""What adapters cost at the shapes of Mistral-7B: operations, and seconds, memory and bytes measured.

    python -m benchmarks.speed.cost [--cells generate-L-1,merge-1] [--device cpu]

Rank 8 on q_proj and v_proj; hypernetworks L, M and S of the paper's sizes and a text encoder of
gte-large's, all with random weights, which decide neither speed nor size. One JSON holds all cells;
what is there is not made again. Each measurement is a process of its own, and memory is the largest
size of that process beyond the size that it has with torch loaded.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from benchmarks.lib import Recorder, again, parse, run_json
from text_to_lora.analysis.cost import BaseCost, Cost, Question, make_encoder
from text_to_lora.files import read_json, write_json
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights

HEADS: Final[dict[str, Any]] = {"L": "joint", "M": "shared", "S": "rank"}
COUNTS: Final = (1, 16, 256)
QUESTION: Final = Question(prompt=64, answer=16, shots=3, description=36)
ROUNDS: Final = 3  # at most, of which the median counts
ROUND_SECONDS: Final = 15.0  # after these no further round begins
GENERATED_TOGETHER: Final = 16  # descriptions in one pass of the hypernetwork
ENCODED_AT_MOST: Final = 16  # descriptions; more are as many times as long
MERGED_AT_MOST: Final = 2  # switches; more are as many times as long
MERGED_BYTES: Final = 2**29  # of target matrices; layers beyond are scaled
PROMPT_ROWS: Final = 16  # at most, of the batch that reads PROMPT_TOKENS a row
PROMPT_TOKENS: Final = 8


@dataclass(frozen=True)
class Setting:
    """Shapes, dtype and device of what is measured.

    config: folder with the base model's config.json
    hypernet: sizes, with random weights; encoder: "gte" or "minilm"; description: its tokens
    dtype: of hypernetwork and adapters; threads: of torch on the CPU
    """

    spec: LoraSpec
    hypernet: HypernetConfig
    config: str
    encoder: str = "gte"
    description: int = QUESTION.description
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    threads: int = 1


def measure(head: str, part: str, count: int, work: Path, **options: Any) -> dict[str, Any]:
    """One measurement in a fresh process.

    head: a key of HEADS; part: a key of PARTS; count: adapters; options: config, device, threads
    work: folder that "write" fills with `library` and `folders`, which "load" parts read

    Returns seconds (median of rounds) and cpu_seconds (of the process, which other work on the
    machine disturbs less) of all `count`, peak_bytes of memory, and what else the part says.
    `scaled` is there where fewer were measured: by how much the time was multiplied.
    """
    job = {"head": head, "part": part, "count": count, "work": str(work), "options": options}
    result: dict[str, Any] = run_json(again("speed.cost", "--job", json.dumps(job)))
    return result


def _encode(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """Descriptions to task embeddings, in one batch."""
    meter = _Meter(setting.device)
    model = make_encoder(setting.encoder).to(setting.device)
    batch = min(count, ENCODED_AT_MOST)
    tokens = torch.randint(0, 30_000, (batch, setting.description), device=setting.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    times = meter.time(lambda: model(input_ids=tokens).last_hidden_state)
    return _scale(times, count, batch) | {"disk_bytes": 4 * parameters}


def _generate(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """Task embeddings to adapters, which all stay in memory; the hypernetwork is resident."""
    from text_to_lora.hypernet.model import Hypernetwork

    meter = _Meter(setting.device)
    hypernet = Hypernetwork.from_config(
        setting.hypernet, setting.spec, torch.Generator().manual_seed(0), as_lora=False
    )
    hypernet = hypernet.to(setting.device, setting.dtype).eval()
    embeddings = torch.randn(count, setting.hypernet.embedding_dim, device=setting.device)
    return meter.time(
        lambda: [hypernet(part) for part in torch.split(embeddings, GENERATED_TOGETHER)]
    ) | {"disk_bytes": sum(p.numel() * p.element_size() for p in hypernet.parameters())}


def _write(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """The same adapters as one library and as PEFT folders."""
    from text_to_lora.library.library import LibraryEntry, write_library
    from text_to_lora.lora.peft_format import save_adapter

    dtype = setting.dtype
    adapter = _random(setting.spec, 1, dtype, "cpu")
    meter = _Meter("cpu")
    entries = [LibraryEntry(f"task-{number}") for number in range(count)]
    library = meter.time(
        lambda: write_library(
            work / "library",
            setting.spec,
            entries,
            (adapter for _ in range(count)),
            dtype=dtype,
            overwrite=True,
        ),
        rounds=1,
        warm_up=False,
    )
    folders = meter.time(
        lambda: [
            save_adapter(adapter, work / "folders" / str(number), overwrite=True)
            for number in range(count)
        ],
        rounds=1,
        warm_up=False,
    )
    return {
        "library": library | {"disk_bytes": _disk_bytes(work / "library")},
        "folders": folders | {"disk_bytes": _disk_bytes(work / "folders")},
    }


def _load_library(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """All adapters of a library: mapped, hashes checked, numbers checked."""
    from text_to_lora.library.library import load_library

    return _load(setting, work / "library", lambda: load_library(work / "library").weights)


def _load_folders(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """Each adapter from its own PEFT folder."""
    from text_to_lora.lora.peft_format import load_adapter

    folders = [work / "folders" / str(number) for number in range(count)]
    return _load(
        setting,
        work / "folders",
        lambda: [load_adapter(folder, spec=setting.spec) for folder in folders],
    )


def _load(setting: Setting, folder: Path, load: Callable[[], Any]) -> dict[str, Any]:
    """First with the files dropped from the page cache, where the system can, then warm."""
    meter = _Meter(setting.device)

    def to_device() -> Any:
        loaded = load()
        if setting.device == "cpu":
            return loaded
        adapters = loaded if isinstance(loaded, list) else [loaded]
        return [weights.to(device=setting.device) for weights in adapters]

    cold = None
    if _drop_pages(folder):
        cold = meter.time(to_device, rounds=1, warm_up=False)
    warm = meter.time(to_device)
    return warm | {"cold": cold, "disk_bytes": _disk_bytes(folder)}


def _apply(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """A layer of the base over a batch whose every row has its own adapter, beside no adapter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from text_to_lora.lora.apply import adapted

    config = shrink(AutoConfig.from_pretrained(setting.config, trust_remote_code=False), layers=1)
    make: Any = AutoModelForCausalLM.from_config
    dtype = torch.float32 if setting.device == "cpu" else setting.dtype
    model = make(config, dtype=dtype, trust_remote_code=False).eval().to(setting.device)
    spec = _respec(setting.spec, config)
    weights = _random(spec, count, setting.dtype, setting.device)
    layers = setting.spec.num_layers
    result: dict[str, Any] = {"layers_measured": 1}
    for name, tokens in (("one_token", 1), ("prompt", PROMPT_TOKENS)):
        if tokens > 1 and count > PROMPT_ROWS:
            continue
        ids = torch.randint(0, config.vocab_size, (count, tokens), device=setting.device)
        meter, run = _Meter(setting.device), partial(model, input_ids=ids, use_cache=False)
        base = meter.time(run)
        start = time.perf_counter()
        with adapted(model, weights, range(count)):
            entered = time.perf_counter() - start
            adapted_time = meter.time(run)
        per_token = layers / (count * tokens)
        result[name] = {
            "rows": count,
            "tokens_a_row": tokens,
            "base_seconds_per_token": base["seconds"] * per_token,
            "adapter_seconds_per_token": (adapted_time["seconds"] - base["seconds"]) * per_token,
            "base_cpu_seconds_per_token": base["cpu_seconds"] * per_token,
            "adapter_cpu_seconds_per_token": (adapted_time["cpu_seconds"] - base["cpu_seconds"])
            * per_token,
            "enter_seconds": entered * layers,
        }
    return result


def _merge(setting: Setting, count: int, work: Path) -> dict[str, Any]:
    """Switches between merged adapters: the target matrices back to the base's, then the next one.

    The matrices have numbers, the rest of the model has none.
    """
    from transformers import AutoConfig

    from text_to_lora.lora.apply import merge
    from text_to_lora.lora.outline import build_meta_model

    dtype = setting.dtype
    config = AutoConfig.from_pretrained(setting.config, trust_remote_code=False)
    spec, layers = setting.spec, setting.spec.num_layers
    numbers = sum(slot.in_features * slot.out_features for slot in spec.slots)
    fitting = max(1, min(layers, MERGED_BYTES * layers // (numbers * dtype.itemsize)))
    if fitting < layers:
        config = shrink(config, layers=fitting)
        spec = _respec(spec, config)
    meter = _Meter(setting.device)
    model: Any = build_meta_model(config)
    targets = [model.get_submodule(spec.module_name(s.layer, s.module)) for s in spec.slots]
    for module in targets:
        shape = module.get_parameter("weight").shape
        weight = torch.empty(shape, dtype=dtype, device=setting.device).uniform_(-0.02, 0.02)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    originals = [module.get_parameter("weight").clone() for module in targets]
    (adapter,) = _random(spec, 1, setting.dtype, setting.device).unbind()
    switches = min(count, MERGED_AT_MOST)

    def switch() -> None:
        for _ in range(switches):
            for module, original in zip(targets, originals, strict=True):
                module.get_parameter("weight").copy_(original)
            merge(model, adapter)

    times = _scale(meter.time(switch), count * layers, switches * fitting)
    held = 2 * sum(weight.numel() * weight.element_size() for weight in originals)
    return times | {"held_bytes": held * layers // fitting, "layers_measured": fitting}


PARTS: Final[dict[str, Callable[[Setting, int, Path], dict[str, Any]]]] = {
    "encode": _encode,
    "generate": _generate,
    "write": _write,
    "load-library": _load_library,
    "load-folders": _load_folders,
    "apply": _apply,
    "merge": _merge,
}


def shrink(config: Any, *, layers: int) -> Any:
    """The text configuration of a base with fewer layers and a vocabulary of 256, other shapes kept."""
    text = copy.deepcopy(config.get_text_config(decoder=True))
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.vocab_size = 256
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    return text


def _respec(spec: LoraSpec, config: Any) -> LoraSpec:
    """The spec of a shrunk base with the same modules."""
    return LoraSpec.from_config(
        config,
        targets=sorted({group.module for group in spec.groups}),
        rank=spec.rank,
        alpha=spec.alpha,
        rslora=spec.rslora,
    )


class _Meter:
    """Time and memory from here on; what is in memory already does not count."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = self._gpu(torch.cuda.memory_allocated) or psutil.Process().memory_info().rss

    def time(
        self, run: Callable[[], Any], *, rounds: int = ROUNDS, warm_up: bool = True
    ) -> dict[str, Any]:
        """Median time over rounds, and the peak of memory until their end."""
        if warm_up:
            run()
        walls: list[float] = []
        processor: list[float] = []
        started = time.perf_counter()
        while len(walls) < rounds and (not walls or time.perf_counter() - started < ROUND_SECONDS):
            self._gpu(torch.cuda.synchronize)
            wall, cpu = time.perf_counter(), time.process_time()
            result = run()
            self._gpu(torch.cuda.synchronize)
            walls.append(time.perf_counter() - wall)
            processor.append(time.process_time() - cpu)
            del result
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        largest *= 1 if sys.platform == "darwin" else 1024
        peak = self._gpu(torch.cuda.max_memory_allocated) or largest
        return {
            "seconds": statistics.median(walls),
            "cpu_seconds": statistics.median(processor),
            "rounds": len(walls),
            "peak_bytes": max(0, peak - self.before),
        }

    def _gpu(self, call: Callable[[], Any]) -> int:
        return int(call() or 0) if self.device != "cpu" else 0


def _random(spec: LoraSpec, count: int, dtype: torch.dtype, device: str) -> LoraWeights:
    """So many copies of one adapter whose numbers are small and random."""

    def fill(*shape: int) -> torch.Tensor:
        one = torch.empty(1, *shape, dtype=dtype, device=device).uniform_(-0.01, 0.01)
        return one.expand(count, *shape).contiguous()

    return LoraWeights(
        spec,
        {g.key: fill(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: fill(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )


def _scale(times: dict[str, Any], wanted: int, measured: int) -> dict[str, Any]:
    """Times of all where some were measured."""
    if wanted == measured:
        return times
    factor = wanted / measured
    return times | {
        "seconds": times["seconds"] * factor,
        "cpu_seconds": times["cpu_seconds"] * factor,
        "scaled": factor,
    }


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


def _disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _drop_pages(folder: Path) -> bool:
    """Ask the system to forget what it has cached of the files; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in _files(folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


@cache
def mistral() -> Any:
    """The configuration of Mistral-7B-Instruct-v0.2, which has no window."""
    from transformers import MistralConfig

    return MistralConfig(sliding_window=None, bos_token_id=None, eos_token_id=None)


@cache
def costs(head: str) -> Cost:
    """Of one architecture at the paper's sizes."""
    name = "mistralai/Mistral-7B-Instruct-v0.2"
    spec = LoraSpec.from_config(
        mistral(), targets=["q_proj", "v_proj"], rank=8, rslora=True, name=name
    )
    sizes = HypernetConfig(head=HEADS[head], embedding_dim=1024)
    return Cost(BaseCost(mistral(), name), spec, sizes, "gte")


def makers(options: argparse.Namespace, work: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every cell by name."""

    def run(head: str, part: str, count: int, folder: Path = work) -> dict[str, Any]:
        config, device = str(work / "base"), options.device
        measured = measure(
            head, part, count, folder, config=config, device=device, threads=options.threads
        )
        return {"adapters": count} | measured

    def disk(count: int) -> dict[str, Any]:
        """Written, then read: in one cell, since the files go afterwards."""
        with tempfile.TemporaryDirectory(dir=work) as folder:
            parts = ("write", "load-library", "load-folders")
            return {"adapters": count} | {p: run("L", p, count, Path(folder)) for p in parts}

    def facts() -> dict[str, Any]:
        """Every figure that follows from shapes."""
        return {
            head: costs(head).to_dict(QUESTION, adapters=max(COUNTS), questions=100)
            for head in HEADS
        }

    cells: dict[str, Callable[[], dict[str, Any]]] = {"facts": facts}
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    for count in options.counts:
        cells[f"disk-{count}{suffix}"] = partial(disk, count)
        for head in HEADS:
            cells[f"generate-{head}-{count}{suffix}"] = partial(run, head, "generate", count)
        for part in ("encode", "apply", "merge"):
            cells[f"{part}-{count}{suffix}"] = partial(run, "L", part, count)
    return cells


def make_cells(options: argparse.Namespace) -> None:
    """Make the cells that are not there yet, each written down at once."""
    result = read_json(options.out) if options.out.exists() else {"cells": {}}
    with tempfile.TemporaryDirectory(prefix="t2l-cost-") as folder:
        work = Path(folder)
        mistral().save_pretrained(work / "base")
        every = makers(options, work)
        wanted = options.cells.split(",") if options.cells else list(every)
        if unknown := sorted(set(wanted) - set(every)):
            raise SystemExit(f"no cells {', '.join(unknown)}; there are {', '.join(every)}")
        for name in wanted:
            if name in result["cells"]:
                print(f"{name}: finished before", flush=True)
                continue
            recorder, cell = Recorder(threads=options.threads), every[name]()
            noted = recorder.complete({})
            result["cells"][name] = noted | {"whole_seconds": noted.pop("seconds")} | cell
            write_json(options.out, result)
            print(f"{name}: {result['cells'][name]['whole_seconds']:.0f} s", flush=True)


def main() -> None:
    """Make cells, or measure the job that --job describes and print its result as JSON."""
    parser = parse(__doc__, "cost", threads=1)
    add = parser.add_argument
    add("--cells", help="names with commas; default: all")
    add("--counts", type=int, nargs="+", default=list(COUNTS), help="adapters (default 1 16 256)")
    add("--device", default="cpu", help="torch device (default cpu)")
    add("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is None:
        make_cells(options)
        return
    job = json.loads(options.job)
    sizes = costs(job["head"])
    setting = Setting(sizes.spec, sizes.hypernet, **job["options"])
    torch.set_num_threads(setting.threads)
    with torch.no_grad():
        print(json.dumps(PARTS[job["part"]](setting, job["count"], Path(job["work"]))))


if __name__ == "__main__":
    main()
