"""The default hypernetwork on unseen tasks and on everyday instructions: the final figures.

    python -m benchmarks.studies.unseen --data DIR --work WORK --library LIBRARY --oracle ORACLES
    python -m benchmarks.studies.unseen --data DIR --work WORK --suite public [--conditions base,matched]

The unseen tasks are scored when the hypernetwork and what it is compared with are final. The suite
`unseen` comes with the instructions of `t2l eval obedience`; `public` has nine public benchmarks, law
and medicine; `bbh` has BIG-Bench Hard. A suite is written into the folder of results once every condition
is there. A repeated command goes on where it was interrupted, and one with other conditions adds them.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from text_to_lora.tasks.task import Task

CONDITIONS = ("base", "in_prompt", "multitask", "multitask_in_prompt", "matched")
UNSEEN_CONDITIONS = (
    *CONDITIONS,
    *("matched_in_prompt", "shuffled", "junk", "mean", "retrieval", "arrow", "oracle"),
)
PUBLIC_CONDITIONS = ("base", "in_prompt", "multitask", "matched")
PUBLIC_UNSEEN = ("legalbench.diversity_2", "medical.medical_abstracts")
NOT_OF_THE_PAPER = "benchmarks.social_i_qa"


def unseen_tasks(data: Path) -> list[Task]:
    """The tasks that nothing was trained or chosen on."""
    return load_data_dir(data, split="dev_heldout")


def public_tasks(data: Path) -> list[Task]:
    """Nine of the paper's ten benchmarks, a task of law and one of medicine."""
    benchmarks = load_data_dir(data, split="benchmarks")
    tasks = [task for task in benchmarks if task.name != NOT_OF_THE_PAPER]
    return tasks + [task for task in unseen_tasks(data) if task.name in PUBLIC_UNSEEN]


def bbh_tasks(data: Path) -> list[Task]:
    """The tasks of BIG-Bench Hard."""
    tasks = load_data_dir(data, split="eval_only")
    return [task for task in tasks if task.name.startswith("bbh.")]


@dataclass(frozen=True)
class Suite:
    """Tasks that are scored together.

    tasks: reads them from the folder of task collections
    folder: of the results; conditions: that have to be there before they are written
    rows: of each task; max_new_tokens: of an answer
    label_likelihood: also choose labels by likelihood, as benchmarks usually are scored
    """

    tasks: Callable[[Path], list[Task]]
    folder: str
    conditions: tuple[str, ...]
    rows: int = 20
    max_new_tokens: int = 32
    label_likelihood: bool = False


SUITES = {
    "unseen": Suite(unseen_tasks, "suite", UNSEEN_CONDITIONS),
    "public": Suite(
        public_tasks,
        "suite-public",
        PUBLIC_CONDITIONS,
        100,
        max_new_tokens=128,
        label_likelihood=True,
    ),
    "bbh": Suite(bbh_tasks, "suite-bbh", CONDITIONS, label_likelihood=True),
}
FILES = ("report.json", "conditions.png", "differences.png")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of task collections")
    add("--work", type=Path, required=True, help="folder of samples and plots")
    add(
        "--suite",
        choices=SUITES,
        default="unseen",
        help="what is scored (default: unseen)",
    )
    add("--conditions", help="conditions with commas (default: those of the suite)")
    add("--library", type=Path, help="library of training tasks, for the suite unseen")
    add(
        "--oracle",
        type=Path,
        help="library of the unseen tasks' own adapters, for the suite unseen",
    )
    add("--rows", type=int, help="rows a task (default: 100 of public tasks, 20 of others)")
    add("--threads", type=int, default=2, help="CPU threads (default 2)")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    needed = options.suite == "unseen"
    if any((folder is not None) != needed for folder in (options.library, options.oracle)):
        parser.error("the suite unseen, and no other, needs --library and --oracle")
    return options


def score_suite(t2l: TextToLora, options: argparse.Namespace, suite: Suite) -> set[str]:
    """Score the tasks of a suite; gives the conditions that have been scored by now."""
    base, tokenizer = t2l.base
    config = base.config
    library, oracle = (
        None if folder is None else load_library(folder, base_config=config)
        for folder in (options.library, options.oracle)
    )
    tasks = suite.tasks(options.data)
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
            options.conditions.split(",") if options.conditions else suite.conditions, sources
        ),
        output_dir=options.work / suite.folder,
        rows_per_task=options.rows or suite.rows,
        max_new_tokens=suite.max_new_tokens,
        label_likelihood=suite.label_likelihood,
        max_length=1024,
        progress=lambda line: print(line, flush=True),
    )
    return set(report["conditions"])


def main() -> None:
    """Score a suite, and with the unseen tasks the instructions."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    t2l = TextToLora.from_pretrained("embedded")
    suite = SUITES[options.suite]
    # Without --conditions, since a result joins the conditions of all calls.
    arguments = f"--data DIR --work WORK --suite {options.suite}"
    arguments += " --library LIBRARY --oracle ORACLES" if options.library else ""
    arguments += f" --rows {options.rows}" if options.rows else ""
    facts = {
        "machine": machine(),
        "command": f"python -m benchmarks.studies.unseen {arguments}",
        "date": datetime.now(UTC).date().isoformat(),
        "hypernet": t2l.fingerprint,
    }
    if missing := set(suite.conditions) - score_suite(t2l, options, suite):
        print(f"not scored yet: {', '.join(sorted(missing))}")
        return
    names = [suite.folder]
    if options.suite == "unseen":
        score_obedience(t2l, options.work / "obedience")
        names += ["obedience/everyday", "obedience/new_words"]
    for name in names:
        (options.out / name).mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copy(options.work / name / file, options.out / name / file)
    write_json(options.out / suite.folder / "facts.json", facts)


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
