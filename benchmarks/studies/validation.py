"""The default hypernetwork on tasks set aside for validation, and on words that training never had.

    python -m benchmarks.studies.validation --data DIR [--model embedded] [--rows 8] --work WORK

Choices are made on these tasks; the unseen tasks are for the final figures alone. Writes
`validation/report.json` with `validation_words.json` into the folder of results; a repeated command
goes on where it was interrupted.
"""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib import RESULTS, Recorder, parse
from text_to_lora import TextToLora
from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.files import read_json
from text_to_lora.tasks.families.probe import Probe, word_probe
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Example, Metric, Row, Task
from text_to_lora.training.split import split_by_group

CONDITIONS = ("base", "in_prompt", "matched", "shuffled", "junk")
PROBE_SEED = 0
# What the chat template of SmolLM2-Instruct writes where there is no system turn, and what stands in
# its place; training has the stock turn alone.
STOCK_SYSTEM_TURN = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n"
)
SYSTEM_TURNS = {
    "adapter, another system turn": "<|im_start|>system\nAnswer politely.<|im_end|>\n",
    "adapter, no system turn": "",
}


def score_words(t2l: TextToLora, count: int) -> dict[str, Any]:
    """Share of probes whose answer is exactly right, by kind and condition.

    count: probes, of which half are constants, a quarter labels
    """
    probes, rows, descriptions = _draw_probes(count)
    base, tokenizer = t2l.base
    scorer = Scorer(base, tokenizer)
    weights = t2l.generate(descriptions).weights
    scored = {
        "base": scorer.score(rows),
        "in_prompt": scorer.score(rows, prompt_texts=descriptions),
        "adapter": scorer.score(rows, weights=weights, adapters=range(len(rows))),
    }
    for name, system_turn in SYSTEM_TURNS.items():
        assert STOCK_SYSTEM_TURN in tokenizer.chat_template
        other = copy.deepcopy(tokenizer)
        other.chat_template = tokenizer.chat_template.replace(STOCK_SYSTEM_TURN, system_turn)
        scored[name] = Scorer(base, other).score(rows, weights=weights, adapters=range(len(rows)))
    answers = {name: [answer.text for answer in results] for name, results in scored.items()}
    return {
        "probes": count,
        "seed": PROBE_SEED,
        "exact": {name: _shares(probes, texts) for name, texts in answers.items()},
        "answers": [
            asdict(probe) | {name: texts[place] for name, texts in answers.items()}
            for place, probe in enumerate(probes)
        ],
    }


def score_adapters_on_words(t2l: TextToLora, count: int) -> dict[str, float]:
    """Share of probes whose answer is exactly right with their adapters, by kind."""
    probes, rows, descriptions = _draw_probes(count)
    weights = t2l.generate(descriptions).weights
    answers = Scorer(*t2l.base).score(rows, weights=weights, adapters=range(len(rows)))
    return _shares(probes, [answer.text for answer in answers])


def _draw_probes(count: int) -> tuple[list[Probe], list[Row], list[str]]:
    """Probes, their rows, and their descriptions."""
    probes = word_probe(PROBE_SEED, count)
    rows = [_row(probe, place) for place, probe in enumerate(probes)]
    return probes, rows, [probe.description for probe in probes]


def _row(probe: Probe, place: int) -> Row:
    example = Example(probe.input, (probe.answer,), place)
    # ROUGE-L: the answer's length is then not limited by that of the right one.
    return Row(Task(f"probe-{place}", probe.description, (), (example,), Metric("rougeL")), example)


def _shares(probes: Sequence[Probe], texts: Sequence[str]) -> dict[str, float]:
    totals = Counter(probe.kind for probe in probes)
    right = Counter(
        probe.kind for probe, text in zip(probes, texts, strict=True) if text == probe.answer
    )
    shares = {kind: right[kind] / total for kind, total in totals.items()}
    return shares | {"all": sum(right.values()) / len(probes)}


def main() -> None:
    """Score the tasks set aside and the probes."""
    parser = parse(__doc__, "validation", threads=2)
    parser.set_defaults(out=RESULTS)
    parser.add_argument("--data", type=Path, required=True, help="folder of task collections")
    parser.add_argument("--model", default="embedded", help="hypernetwork (default embedded)")
    parser.add_argument("--rows", type=int, default=8, help="rows a task (default 8)")
    parser.add_argument("--probes", type=int, default=128, help="probes of words (default 128)")
    parser.add_argument("--work", type=Path, required=True, help="folder of samples and plots")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    t2l = TextToLora.from_pretrained(options.model)
    recorder = Recorder()
    file = options.out / "validation_words.json"
    if not (file.is_file() and read_json(file).get("hypernet") == t2l.fingerprint):
        words = score_words(t2l, options.probes)
        recorder.write(file, {"hypernet": t2l.fingerprint, **words})
    _, tasks = split_by_group(load_data_dir(options.data, split="train"))
    base, tokenizer = t2l.base
    sources = Sources(tasks=tasks, generate=lambda texts: t2l.generate(texts).weights)
    evaluate_suite(
        base=base,
        tokenizer=tokenizer,
        tasks=tasks,
        conditions=plan_conditions(CONDITIONS, sources),
        output_dir=options.work,
        rows_per_task=options.rows,
        label_likelihood=False,
        max_length=768,
        provenance={"hypernet": t2l.fingerprint},
        progress=lambda line: print(line, flush=True),
    )
    folder = options.out / "validation"
    folder.mkdir(exist_ok=True)
    for name in ("report.json", "conditions.png", "differences.png"):
        shutil.copy(options.work / name, folder / name)
    recorder.write(folder / "facts.json", {})


if __name__ == "__main__":
    main()
