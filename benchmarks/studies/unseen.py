"""The default hypernetwork on unseen tasks and on everyday instructions: the final figures.

    python -m benchmarks.studies.unseen --data DIR --work WORK [--conditions base,matched]
    python -m benchmarks.studies.unseen --data DIR --work WORK2 --library LIBRARY --oracle ORACLES

The unseen tasks are scored once, when the hypernetwork and what it is compared with are final. Writes
`suite/` and `obedience/` into the folder of results, once every condition of the suite is there, and
with libraries `suite-library/`: what trained adapters answer, beside the adapter of the description. A
repeated command goes on where it was interrupted, and one with other conditions adds them.
"""

from __future__ import annotations

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.lib import RESULTS, machine
from text_to_lora import TextToLora, load_adapter
from text_to_lora.evaluation.conditions import Sources, plan_conditions
from text_to_lora.evaluation.obedience import evaluate_obedience
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.files import write_json
from text_to_lora.library.library import load_library
from text_to_lora.models.find import embedded_folder
from text_to_lora.tasks.folder import load_data_dir

CONDITIONS = (
    "base",
    "in_prompt",
    "multitask",
    "multitask_in_prompt",
    "matched",
    "matched_in_prompt",
    "shuffled",
    "junk",
)
WITH_LIBRARIES = ("matched", "multitask", "mean", "retrieval", "oracle")
FILES = ("report.json", "conditions.png", "differences.png")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--work", type=Path, required=True, help="folder of samples and plots")
    add("--conditions", help="conditions with commas (default: all that are possible)")
    add("--library", type=Path, help="library of training tasks, with --oracle")
    add("--oracle", type=Path, help="library of the unseen tasks' own adapters, with --library")
    add("--rows", type=int, default=20, help="rows a task (default 20)")
    add("--threads", type=int, default=2, help="CPU threads (default 2)")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    if (options.library is None) != (options.oracle is None):
        parser.error("give --library and --oracle together, or neither")
    return options


def score_suite(
    t2l: TextToLora, options: argparse.Namespace, suite: str, wanted: tuple[str, ...]
) -> set[str]:
    """Score the unseen tasks; gives the conditions that have been scored by now."""
    base, tokenizer = t2l.base
    config = base.config
    library, oracle = (
        None if folder is None else load_library(folder, base_config=config)
        for folder in (options.library, options.oracle)
    )
    tasks = load_data_dir(options.data, split="dev_heldout")
    sources = Sources(
        tasks=tasks,
        generate=lambda texts: t2l.generate(texts).weights,
        encode=t2l.encoder.encode,
        encoder=t2l.encoder.config.name,
        multitask=load_adapter(embedded_folder("multitask"), base_config=config),
        multitask_in_prompt=load_adapter(
            embedded_folder("multitask-in-prompt"), base_config=config
        ),
        library=library,
        oracle=oracle,
    )
    report = evaluate_suite(
        base=base,
        tokenizer=tokenizer,
        tasks=tasks,
        conditions=plan_conditions(
            options.conditions.split(",") if options.conditions else wanted, sources
        ),
        output_dir=options.work / suite,
        rows_per_task=options.rows,
        label_likelihood=False,
        max_length=1024,
        progress=lambda line: print(line, flush=True),
    )
    return set(report["conditions"])


def main() -> None:
    """Score the unseen tasks, then the instructions."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    t2l = TextToLora.from_pretrained("embedded")
    libraries = " --library LIBRARY --oracle ORACLES" if options.library else ""
    facts = {
        "machine": machine(),
        # Without --conditions, since a result joins the conditions of all calls.
        "command": "python -m benchmarks.studies.unseen --data DIR --work WORK"
        f"{libraries} --rows {options.rows}",
        "date": datetime.now(UTC).date().isoformat(),
        "hypernet": t2l.fingerprint,
    }
    suite, wanted = ("suite-library", WITH_LIBRARIES) if options.library else ("suite", CONDITIONS)
    if missing := set(wanted) - score_suite(t2l, options, suite, wanted):
        print(f"not scored yet: {', '.join(sorted(missing))}")
        return
    names = [suite]
    if suite == "suite":
        score_obedience(t2l, options.work / "obedience")
        names += ["obedience/everyday", "obedience/new_words"]
    for name in names:
        (options.out / name).mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copy(options.work / name / file, options.out / name / file)
    write_json(options.out / suite / "facts.json", facts)


def score_obedience(t2l: TextToLora, folder: Path) -> None:
    """Score the instructions."""
    evaluate_obedience(
        base=t2l.base[0],
        tokenizer=t2l.base[1],
        generate=lambda texts: t2l.generate(texts).weights,
        output_dir=folder,
        progress=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    main()
