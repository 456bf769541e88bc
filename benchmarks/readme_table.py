"""Write the results of README.md from the committed JSON, between its two markers.

    python benchmarks/readme_table.py [--check]

Read from `benchmarks/results/`: `heldout/report.json` and `obedience.json` of `t2l eval`,
`facts.json` of `t2l train embedded` (machine, date, seconds), and every `*.json` of a benchmark.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from text_to_lora.training.card import condition_table, difference_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)

HELDOUT, OBEDIENCE, FACTS = "heldout/report.json", "obedience.json", "facts.json"

Row = tuple[str, str, str]
"""What was measured, the result, what is to be reached."""


def block(results: Path = RESULTS) -> str:
    """The text between the markers.

    Raises FileNotFoundError when a result is not there yet.
    """
    heldout, obedience, facts = (_read(results / name) for name in (HELDOUT, OBEDIENCE, FACTS))
    tasks = heldout["tasks"]
    groups = {task["group"] for task in tasks.values()}
    rows = heldout["settings"]["rows_per_task"]
    minutes = sum(condition["seconds"] for condition in heldout["conditions"].values()) / 60
    parts = [
        "## Results",
        f"The embedded default on {len(tasks)} tasks of {len(groups)} source groups that no training "
        "saw. NLL: nats per token of the right answer, lower is better; score: exact match or "
        "ROUGE-L; 95% bootstrap intervals over source groups.",
        condition_table(heldout),
        difference_table(heldout),
        f"{_gap(heldout)}Share of answers that obey 20 descriptions of the kind that first users "
        "try, by rule: "
        + ", ".join(f"{name} {share:.0%}" for name, share in obedience["mean"].items())
        + ".",
        _table(
            ("what", "result", "to reach", "command", "hardware", "minutes"),
            [
                (
                    "embedded weights",
                    f"{facts['hypernet_parameters']:,} parameters, {facts['hypernet_steps']:,} steps",
                    "",
                    f"`{facts['command']}`",
                    facts["machine"],
                    _minutes(facts),
                ),
                (
                    "unseen tasks",
                    "above",
                    "matched better than shuffled, junk and multi-task in NLL",
                    "`t2l eval suite --tasks DIR --library LIBRARY --multitask embedded --oracle ORACLE "
                    f"--hyperdecoder HYPERDECODER --icl --rows {rows} -o results`",
                    facts["machine"],
                    f"{minutes:.0f}",
                ),
                (
                    "obedience",
                    "above",
                    "",
                    "`t2l eval obedience -o results`",
                    facts["machine"],
                    _minutes(obedience),
                ),
                *_benchmarks(results),
            ],
        ),
    ]
    return "\n".join(f"{part}\n" for part in parts)


def _gap(heldout: Mapping[str, Any]) -> str:
    """The share of the gap from base to in_prompt that matched closes, as a sentence."""
    closed = heldout["gap_closed"].get("in_prompt", {}).get("matched", {})
    share = closed.get("nll", {}).get("share", {}).get("mean")
    if share is None:
        return ""
    return (
        f"The adapter closes {share:.0%} of the gap in NLL between the base alone and the base with "
        "the description in its prompt. "
    )


def _benchmarks(results: Path) -> list[tuple[str, ...]]:
    """Rows of all benchmarks, in the order of their files."""
    rows = []
    for file in sorted(results.glob("*.json")):
        if file.name in (OBEDIENCE, FACTS):
            continue
        result = _read(file)
        for place, row in enumerate(RENDERERS.get(file.stem, _summary)(result)):
            first = place == 0
            rows.append(
                (
                    *row,
                    f"`{result['command']}`" if first else "",
                    _machine(result["machine"]) if first else "",
                    _minutes(result) if first else "",
                )
            )
    return rows


def _cold_generate(result: Mapping[str, Any]) -> list[Row]:
    times = result["median_s"]
    return [
        (
            "cold `t2l generate` of one adapter",
            f"{times['t2l_generate']:.2f} s, {result['ratio']:.2f} × loading the encoder and "
            f"encoding once ({times['encode_once']:.2f} s)",
            f"{result['target_ratio']} ×",
        )
    ]


def _sft_step(result: Mapping[str, Any]) -> list[Row]:
    pace, ratios, limits = (result[key] for key in ("tokens_per_second", "ratios", "to_reach"))
    named = {
        "adapted_to_floor": ("adapted", "× the frozen base alone"),
        "adapted_to_static_peft": ("adapted", "× one LoRA of PEFT on padded rows"),
        "whole_to_floor": ("whole", "× the frozen base alone"),
        "whole_to_before": ("whole", "× the step before rows were packed"),
    }
    return [
        (
            f"supervised step on real rows, {variant}",
            f"{ratios[key]:.2f} {words} ({pace[variant]:.0f} tokens a second)",
            f"{limits[key]} ×",
        )
        for key, (variant, words) in named.items()
    ]


def _generation(result: Mapping[str, Any]) -> list[Row]:
    """Adapters at Mistral-7B shapes: the two targets on the CPU, times by count on every device."""
    targets = result["targets"]
    fraction, ratio = (
        targets["fraction_of_fp32_rate_at_64"],
        targets["bf16_at_64_over_fp32_at_1"],
    )
    rows = [
        (
            "64 adapters at Mistral-7B shapes, fp32",
            f"{fraction['found']:.0%} of the machine's fp32 product rate",
            f"{fraction['to_reach']:.0%}",
        ),
        (
            "the same in bfloat16",
            f"{ratio['found']:.2f} × the rate of fp32 one at a time; logits change by "
            f"{result['logits']['bf16_change']:.1%}",
            f"{ratio['to_reach']:g} ×",
        ),
    ]
    for device, found in result["time"].items():
        for dtype, seconds in found["median_s"].items():
            measured = result["peak_memory_mib"][device][dtype]
            peaks = {count: f"{memory['peak']:.0f}" for count, memory in measured.items()}
            rows.append(
                (
                    f"{', '.join(seconds)} adapters, {device}, {dtype}",
                    f"{', '.join(f'{value:.2f}' for value in seconds.values())} s, peak "
                    f"{', '.join(peaks[count] for count in seconds)} MiB",
                    "",
                )
            )
    for dtype, written in result["writing"].items():
        rows.append((f"writing one of them, {dtype}", f"{written['s_per_adapter']:.3f} s", ""))
    return rows


def _summary(result: Mapping[str, Any]) -> list[Row]:
    """Rows that a benchmark words itself: `summary` [{"what", "result", "target"}, ...]."""
    return [(row["what"], row["result"], row["target"]) for row in result["summary"]]


RENDERERS: dict[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "cold_generate": _cold_generate,
    "generation": _generation,
    "sft_step": _sft_step,
}


def _minutes(result: Mapping[str, Any]) -> str:
    """Whole minutes, begun ones counted; nothing where seconds were not taken."""
    return str(ceil(result["seconds"] / 60)) if "seconds" in result else ""


def _machine(machine: Mapping[str, Any]) -> str:
    device = machine.get("gpu", machine.get("device", "cpu"))
    cores = f"{machine['cores']} cores of {machine['cpu']}"
    return cores if device == "cpu" else f"{device}, {cores}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def main() -> None:
    """Rewrite the block, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where README.md differs")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = BLOCK.sub(lambda _: block(), old)
    if options.check and new != old:
        raise SystemExit("README.md differs; run python benchmarks/readme_table.py")
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
