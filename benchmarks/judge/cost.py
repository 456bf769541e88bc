"""What adapters cost at the shapes of Mistral-7B: operations by formula and count, and measured.

    python benchmarks/judge/cost.py [--cells generate-L-1,merge-1] [--device cpu]
    python benchmarks/judge/cost.py --render

Rank 8 on q_proj and v_proj; hypernetworks L, M and S of the paper's sizes and a text encoder of
gte-large's, all with random weights, which decide neither speed nor size. One JSON holds all cells;
what is there is not made again. Each measurement is a process of its own. --render writes
docs/cost.md and its plot from the JSON; --check fails where the page differs.

On a GPU (--device cuda, not run so far) the cells have other names, and stand beside those of the
CPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from judging import PLOTS, RESULTS, ROOT

from recorded import command
from text_to_lora.analysis import cost_measure
from text_to_lora.analysis.cost import (
    ENCODERS,
    PAPER,
    BaseCost,
    Cost,
    Question,
    check_count,
    crossing,
    hypernet_flops,
    prompt_of,
)
from text_to_lora.analysis.cost_plots import Panel, plot_costs
from text_to_lora.analysis.cost_text import cells_of_way, size
from text_to_lora.files import read_json, write_json
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import LoraSpec

sys.path.append(str(Path(__file__).parents[1]))  # scripts beside this folder
from cold_generate import machine

PAGE = ROOT / "docs" / "cost.md"
HEADS = {"L": "joint", "M": "shared", "S": "rank"}
COUNTS = (1, 16, 256)
QUESTION = Question(prompt=64, answer=16, shots=3, description=36)
COUNTED_ANSWER = 2  # tokens written in the count on meta tensors
QUESTIONS = 100
DTYPE = "bfloat16"

Cells = Mapping[str, Mapping[str, Any]]


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
    sizes = HypernetConfig.from_dict(
        HypernetConfig(head="joint", embedding_dim=1024).to_dict() | {"head": HEADS[head]}
    )
    parameters = Hypernetwork.empty(sizes, spec).num_parameters
    return Cost(BaseCost.from_config(mistral()), spec, sizes, parameters, ENCODERS["gte"])


def formula() -> dict[str, Any]:
    """Every figure that follows from shapes, and torch's count of the base."""
    base, read = costs("L").base, (QUESTION.prompt, COUNTED_ANSWER)
    return {
        "costs": {
            head: costs(head).to_dict(QUESTION, adapters=max(COUNTS), questions=QUESTIONS)
            for head in HEADS
        },
        "count": {
            "prompt": read[0],
            "answer": read[1],
            "formula": base.answer_flops(*read),
            "counted": check_count(base, mistral(), *read),
        },
        "masked": {
            str(tokens): {
                "whole": base.pass_flops(tokens),
                "masked": base.pass_flops(tokens, masked=True),
            }
            for tokens in (QUESTION.prompt, QUESTION.shot_tokens + QUESTION.prompt, 4096)
        },
        "paper": {
            "quoted": PAPER,
            "prompt_tokens": {
                name: prompt_of(base, 1e12 * PAPER[name]) for name in ("base", "3-shot")
            },
            "description_tokens": next(
                n for n in range(1, 1000) if ENCODERS["gte"].flops(n) >= 1e12 * PAPER["encoder"]
            ),
            "hypernetwork": {head: hypernet_flops(costs(head).hypernet, costs(head).spec)
                             for head in HEADS},
        },
    }  # fmt: skip


def makers(options: argparse.Namespace, work: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every cell by name."""

    def run(head: str, part: str, count: int, folder: Path = work) -> dict[str, Any]:
        setting = cost_measure.Setting(
            spec=costs(head).spec,
            config=str(work / "base"),
            hypernet=costs(head).hypernet,
            encoder="gte",
            description=QUESTION.description,
            dtype=DTYPE,
            device=options.device,
            threads=options.threads,
        )
        return {"adapters": count} | cost_measure.measure(setting, part, count, folder)

    def disk(count: int) -> dict[str, Any]:
        """Written, then read: in one cell, since the files go afterwards."""
        with tempfile.TemporaryDirectory(dir=work) as folder:
            return {
                "adapters": count,
                **{
                    part: run("L", part, count, Path(folder))
                    for part in ("write", "load-library", "load-folders")
                },
            }

    def later(*arguments: Any) -> Callable[[], dict[str, Any]]:
        return lambda: run(*arguments)

    found: dict[str, Callable[[], dict[str, Any]]] = {"formula": formula}
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    for count in options.counts:
        cells: dict[str, Callable[[], dict[str, Any]]] = {
            f"encode-{count}": later("L", "encode", count),
            **{f"generate-{head}-{count}": later(head, "generate", count) for head in HEADS},
            f"disk-{count}": lambda count=count: disk(count),  # type: ignore[misc]
            f"resident-{count}": later("L", "resident", count),
            f"apply-{count}": later("L", "apply", count),
            f"merge-{count}": later("L", "merge", count),
        }
        found |= {name + suffix: make for name, make in cells.items()}
    return found


def make_cells(options: argparse.Namespace) -> None:
    """Make the cells that are not there yet, each written down at once."""
    result = read_json(options.out) if options.out.exists() else {"cells": {}}
    with tempfile.TemporaryDirectory(dir=options.work, prefix=".cost-") as folder:
        work = Path(folder)
        mistral().save_pretrained(work / "base")
        every = makers(options, work)
        wanted = options.cells or list(every)
        if unknown := sorted(set(wanted) - set(every)):
            raise SystemExit(f"no cells {', '.join(unknown)}; there are {', '.join(every)}")
        for name in wanted:
            if name in result["cells"]:
                print(f"{name}: finished before", flush=True)
                continue
            before, started = machine(), time.perf_counter()
            made = every[name]()
            if options.out.exists():  # another run may have made others meanwhile
                result = read_json(options.out)
            result["cells"][name] = made | {
                "command": command(),
                "date": datetime.now(UTC).date().isoformat(),
                "machine": before
                | {
                    "threads": options.threads,
                    "load_average_1_min_after": round(os.getloadavg()[0], 2),
                },
                "whole_seconds": round(time.perf_counter() - started, 1),
            }
            write_json(options.out, result)
            print(f"{name}: {result['cells'][name]['whole_seconds']:.0f} s", flush=True)


def page(result: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    cells: Cells = result["cells"]
    parts = [_INTRODUCTION, *_operations(cells["formula"]), *_storage(cells["formula"])]
    parts += _measured(cells)
    parts += ["## What it does not say", _LIMITS]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# What it costs

Operations, bytes and seconds of a generated adapter, beside prompts and beside a library of stored
adapters, at the shapes of Mistral-7B: rank 8 on `q_proj` and `v_proj`, hypernetworks of the paper's
sizes, a text encoder of the size of gte-large-en-v1.5. `t2l cost --base ...` gives the same for
another base. This page and its plot are written by `benchmarks/judge/cost.py --render` from
`benchmarks/results/judge/cost.json`.

![Bytes, memory and seconds by number of tasks, and operations by number of questions](plots/cost.png)"""

_FORMULAS = """A multiplication and an addition are two operations; only matrix products count.

- a pass over `n` new tokens after `p` cached ones: `2 · linear · n + 2 · head · predicted + 2 ·
  heads · (key_dim + value_dim) · Σ_layers n · (min(p, window − 1) + n)`, where `linear` are the
  numbers of all matrices of the layers (of routed experts those that a token passes), `head` those
  of the vocabulary's matrix, and `predicted` is 1
- an answer of `g` tokens to a prompt of `n`: one pass over `n`, and `g − 1` over one token each
- an adapter that is not merged: `2 · rank · (in + out)` a slot and token
- the encoder, once a task: `2 · layers · ((4 · hidden² + 3 · hidden · intermediate) · n + 2 ·
  hidden · n²)`
- the hypernetwork, once a task: its matrices times the rows that pass them (slots for L, twice as
  many for M, twice as many a rank for S); the heads take `2 · head_in · (numbers of the adapter)`"""

_LIMITS = """- Operations are not seconds. Reading a prompt is bound by operations; writing an answer is
  bound by reading the weights, which every way does alike.
- A cached prefix makes examples in context cheap as well: they are read once a task, as a
  description is encoded once. What stays is memory for keys and values, and attention over them.
  Servers that do not keep prefixes pay for them in every question.
- Nothing here is about quality. An adapter that answers worse is no bargain at any cost.
- Training the hypernetwork, or the adapters of a library, is not counted.
- One machine of two virtual cores, whose load average stands above: seconds are of the wall clock,
  CPU seconds of the measured process alone. Figures of a GPU are not there: the code takes
  `--device cuda` and has not been run on one.
- Weights are random. Compression of stored adapters (fewer bits, shared bases) is not considered;
  it moves the crossing points by its factor."""


def _operations(cell: Mapping[str, Any]) -> list[str]:
    facts, count, paper = cell["costs"]["L"], cell["count"], cell["paper"]
    tokens, masked = facts["tokens"], cell["masked"]
    ways = [
        cells_of_way(name, way)
        for name, way in sorted(facts["ways"].items(), key=lambda item: _order(item[0]))
    ]
    quoted, lengths = paper["quoted"], paper["prompt_tokens"]
    networks = [
        [head, f"{cell['costs'][head]['hypernetwork']['parameters']:,}",
         f"{paper['hypernetwork'][head] / 1e9:.2f}"]
        for head in HEADS
    ]  # fmt: skip
    saved = ", ".join(
        f"{1 - found['masked'] / found['whole']:.1%} at {int(length):,} tokens"
        for length, found in sorted(masked.items(), key=lambda item: int(item[0]))
    )
    return [
        "## Operations",
        _FORMULAS,
        f"Counted by torch's `FlopCounterMode` on meta tensors, {count['prompt']} tokens read and "
        f"{count['answer']} written: {count['counted']:,}; by the formula: {count['formula']:,}. "
        "Tests hold the two together for Llama, Mistral with a window, Gemma 2, Qwen 2 and 3, "
        "Mixtral, GPT-2, GPT-NeoX and the embedded base. Attention is counted in full, as it is in "
        f"the paper; kernels that skip what the mask hides save {saved}.",
        f"A question of {tokens['prompt']} tokens, an answer of {tokens['answer']}, "
        f"{tokens['shots']} shots of a question and an answer each, a description of "
        f"{tokens['description']}; {facts['questions']} questions a task; hypernetwork L. TFLOPs:",
        table(
            ["way", "once a task", "a question", "first question",
             f"of {facts['questions']} a task", "kept in memory a task", "T2L costs no more"],
            ways,
        ),
        "How to read it: against a way, T2L costs no more from (or up to) so many questions of one "
        "task. It always costs more than asking without any description; it costs less than examples "
        "or a description in the prompt, from the first question where it says always. With the prefix "
        "cached, what is left of the difference is attention over the cached tokens.",
        "### The paper's figures",
        "Appendix I, TFLOPs a question: "
        f"base {quoted['base']}, 3-shot {quoted['3-shot']}, encoder {quoted['encoder']}, "
        f"hypernetwork M {quoted['hypernetwork']:f}. Its token counts are not published. By the formula "
        f"above, base and 3-shot are prompts of {lengths['base']} and {lengths['3-shot']} tokens with "
        f"an answer of one token, and the encoder's figure a description of "
        f"{paper['description_tokens']} tokens: lengths that can well be, which is no proof that they "
        f"were. The ratio of 3-shot to base, {quoted['3-shot'] / quoted['base']:.2f}, is that of the "
        "prompts' lengths and of nothing else; with a cached prefix little of it is left, as the table "
        "above says. The hypernetwork's figure cannot be: M takes "
        f"{paper['hypernetwork']['M'] / 1e12:.4f}, about "
        f"{paper['hypernetwork']['M'] / 1e12 / quoted['hypernetwork']:,.0f} times the quoted figure. "
        "It is still a small part of one question.",
        table(["hypernetwork", "numbers", "GFLOPs an adapter"], networks),
    ]  # fmt: skip


def _storage(cell: Mapping[str, Any]) -> list[str]:
    rows = []
    for head in HEADS:
        facts = cell["costs"][head]
        rows.append(
            [
                head,
                size(facts["hypernetwork"]["bytes"]),
                f"{facts['library']['crossing_hypernetwork']:,}",
                f"{facts['library']['crossing_with_encoder']:,}",
            ]
        )
    facts = cell["costs"]["L"]
    return [
        "## Bytes",
        f"One adapter has {facts['adapter']['parameters']:,} numbers, {size(facts['adapter']['bytes'])} "
        f"in bfloat16; a library of {facts['library']['adapters']} takes "
        f"{size(facts['library']['bytes'])}. Hypernetworks in bfloat16; the encoder in float32, "
        f"{size(facts['encoder']['bytes'])}. From so many adapters on, the library is the larger:",
        table(["hypernetwork", "bytes", "without encoder", "with encoder"], rows),
    ]


def _measured(cells: Cells) -> list[str]:
    names = [name for name in cells if name != "formula" and "cuda" not in name]
    if not names:
        return []
    known = cells[names[0]]["machine"]
    loads = [cells[name]["machine"]["load_average_1_min"] for name in names]
    rows = []
    for title, name, part in _ROWS:
        for count in COUNTS:
            cell = cells.get(f"{name}-{count}")
            if cell is None:
                continue
            for key in part:
                cell = cell[key]
            scaled = f" (measured: {count / cell['scaled']:.3g})" if "scaled" in cell else ""
            rows.append(
                [
                    title,
                    f"{count}{scaled}",
                    f"{cell['seconds']:.3g}",
                    f"{cell['cpu_seconds']:.3g}",
                    size(cell["peak_bytes"]),
                    size(cell["disk_bytes"]) if "disk_bytes" in cell else "",
                ]
            )
    parts = [
        "## Measured",
        f"On {known['threads']} thread of {known['cpu']} ({known['cores']} cores, torch "
        f"{known['versions']['torch']}), load average {min(loads)} to {max(loads)}. Seconds are of all "
        "adapters of the row together, except where the row says one; memory is the peak beyond "
        "Python and torch, with everything that the way keeps resident. Cold: after the system was "
        "asked to forget the files.",
        table(["what", "adapters", "seconds", "CPU seconds", "memory", "disk"], rows),
    ]
    parts += _verdict(cells)
    applied = []
    for count in COUNTS:
        cell = cells.get(f"apply-{count}", {})
        for kind in ("one_token", "prompt"):
            if kind in cell:
                case = cell[kind]
                applied.append(
                    [
                        str(case["rows"]),
                        str(case["tokens_a_row"]),
                        f"{1e3 * case['base_cpu_seconds_per_token']:.3g}",
                        f"{1e3 * case['adapter_cpu_seconds_per_token']:.3g}",
                        f"{case['adapter_cpu_seconds_per_token'] / case['base_cpu_seconds_per_token']:.1%}",
                        f"{1e3 * case['enter_seconds']:.3g}",
                    ]
                )
    if applied:
        parts += [
            "### Applying resident adapters in a batch",
            "Every row of the batch has an adapter of its own. One layer in float32 was measured and "
            "multiplied by 32; the vocabulary's product is all but left out. CPU milliseconds; "
            "entering (wall time) is gathering and hooking the adapters, once a batch. Differences of "
            "disturbed times can come out below zero: then the overhead is below what this machine can "
            "tell.",
            table(
                ["rows", "tokens a row", "base, a token", "adapter, a token", "overhead", "entering"],
                applied,
            ),
        ]  # fmt: skip
    return parts


def _verdict(cells: Cells) -> list[str]:
    """What the measured figures of one adapter say; nothing where some are missing."""
    try:
        encode, generate = cells["encode-1"], cells["generate-L-1"]
        load = cells["disk-1"]["load-folders"]
        library = cells["formula"]["costs"]["L"]["library"]["crossing_with_encoder"]
    except KeyError:
        return []
    ours, theirs = encode["cpu_seconds"] + generate["cpu_seconds"], load["cpu_seconds"]
    faster, ratio = ("loading", ours / theirs) if ours > theirs else ("generating", theirs / ours)
    return [
        f"One adapter from its description takes {ours:.3g} CPU seconds, of which the encoder "
        f"{encode['cpu_seconds'] / ours:.0%}; from a PEFT folder {theirs:.3g}. By time {faster} is "
        f"{ratio:.0f} times cheaper; by bytes on disk generating is, from {library:,} tasks on (and "
        "for tasks that nobody has trained an adapter for, there is nothing to load)."
    ]


_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("encode descriptions (gte-large's size)", "encode", ()),
    ("generate, L", "generate-L", ()),
    ("generate, M", "generate-M", ()),
    ("generate, S", "generate-S", ()),
    ("write a library", "disk", ("write", "library")),
    ("write PEFT folders", "disk", ("write", "folders")),
    ("load the library, cold", "disk", ("load-library", "cold")),
    ("load the library, warm", "disk", ("load-library",)),
    ("load PEFT folders, cold", "disk", ("load-folders", "cold")),
    ("load PEFT folders, warm", "disk", ("load-folders",)),
    ("pick one of those resident", "resident", ()),
    ("switch merged adapters", "merge", ()),
)


def panels(cells: Cells) -> list[Panel]:
    """The four pairs of axes."""
    made, sizes = costs("L"), [2**power for power in range(13)]
    fixed = made.hypernet_bytes + made.encoder_bytes
    span = (sizes[0], sizes[-1])
    gigabytes = [(size, made.library_bytes(size) / 1e9) for size in sizes]

    def flat(value: float) -> list[tuple[float, float]]:
        return [(x, value) for x in span]

    def meets(value: float) -> tuple[float, float]:
        number = crossing(int(value), made.adapter_bytes)
        return number, value / 1e9

    def points(name: str, key: str, *path: str, each: bool = False) -> list[tuple[float, float]]:
        found = []
        for count in COUNTS:
            cell: Any = cells.get(f"{name}-{count}")
            if cell is not None:
                for part in path:
                    cell = cell[part]
                found.append((count, cell[key] / (count if each else 1e9)))
        return found

    disk = Panel(
        "Bytes on disk (adapters and hypernetwork bfloat16, encoder float32)",
        "tasks",
        "GB",
        {
            "library": gigabytes,
            "hypernetwork L + encoder": flat(fixed / 1e9),
            "hypernetwork L alone": flat(made.hypernet_bytes / 1e9),
        },
        {"library": points("disk", "disk_bytes", "load-library")},
        {f"{meets(value)[0]:,} tasks": meets(value) for value in (made.hypernet_bytes, fixed)},
    )
    one = [sum(cells[name]["peak_bytes"] for name in ("generate-L-1", "encode-1"))]
    memory = Panel(
        "Memory: all adapters resident, or one generated when asked for (peak)",
        "tasks",
        "GB",
        {"library": gigabytes, "hypernetwork L + encoder, measured": flat(one[0] / 1e9)},
        {"library": points("resident", "peak_bytes")},
        {f"{meets(one[0])[0]:,} tasks": meets(one[0])},
    )
    seconds_of = "cpu_seconds"
    generate, encode = (points(n, seconds_of, each=True) for n in ("generate-L", "encode"))
    seconds = Panel(
        "CPU seconds per adapter, one thread; from a cold disk: wall time",
        "tasks whose adapters are made or read together",
        "seconds an adapter",
        {},
        {
            "encode and generate, L": [
                (n, first + second) for (n, first) in generate for (m, second) in encode if n == m
            ],
            "generate, L": generate,
            "load PEFT folder, cold": points("disk", "seconds", "load-folders", "cold", each=True),
            "load PEFT folder, warm": points("disk", seconds_of, "load-folders", each=True),
            "load from library, warm": points("disk", seconds_of, "load-library", each=True),
            "switch merged": points("merge", seconds_of, each=True),
            "pick one resident": [(n, y * n) for n, y in points("resident", seconds_of, each=True)],
        },
    )
    questions = [2**power for power in range(11)]
    ways = made.ways(QUESTION)
    operations = Panel(
        f"TFLOPs a question: {QUESTION.prompt} tokens read, {QUESTION.answer} written, "
        f"description of {QUESTION.description}",
        "questions of one task",
        "TFLOPs a question",
        {way.name: [(q, way.per_question(q) / 1e12) for q in questions] for way in ways},
    )
    return [disk, memory, seconds, operations]


def _order(way: str) -> tuple[bool, bool, str]:
    """Zero-shot first, T2L last."""
    return way == "T2L", way != "zero-shot", way


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Make cells, or write or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cells", type=lambda text: text.split(","), help="names with commas; default: all"
    )
    parser.add_argument(
        "--counts",
        type=lambda text: [int(part) for part in text.split(",")],
        default=list(COUNTS),
        help="adapters, with commas (default 1,16,256)",
    )
    parser.add_argument("--device", default="cpu", help="torch device (default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--work", type=Path, help="folder for temporary files, up to 4 GB")
    parser.add_argument("--out", type=Path, default=RESULTS / "cost.json", help="the JSON")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plot")
    parser.add_argument("--render", action="store_true", help="write page and plot from the JSON")
    parser.add_argument("--check", action="store_true", help="fail where the page differs")
    options = parser.parse_args()
    if options.check or options.render:
        result = read_json(options.out)
        text = page(result)
        if options.check:
            if not options.page.exists() or options.page.read_text(encoding="utf-8") != text:
                raise SystemExit(
                    f"{options.page} differs; run python benchmarks/judge/cost.py --render"
                )
            return
        plot_costs(panels(result["cells"]), options.plots / "cost.png")
        options.page.write_text(text, encoding="utf-8")
        return
    make_cells(options)


if __name__ == "__main__":
    main()
