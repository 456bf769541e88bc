"""Table 6's form: reconstruction against SFT at equal wall time, and reconstruction first, SFT after.

    python benchmarks/library/sft_comparison.py --library LIBRARY --data DIR --multitask MULTITASK

Three hypernetworks of the same head and sizes, from descriptions, on the same tasks, each for the
same seconds of training on one thread: reconstruction of the library (z-scores); SFT on the rows of
its tasks (cross-entropy of the answers, no description in the prompt, no synthetic tasks, no
teacher); and half the time reconstruction, then half the time SFT from what it gave. Steps follow
from a short timing of each, so that every learning rate ends at zero; what the runs took stands in
their cells. Each is trained at two learning rates, of which the one with the lower NLL on rows of
the groups that no training saw (those that `data.validation_one_in` sets aside) counts. The chosen
three alone are scored on the held-out tasks, once, beside the base, the description in the prompt,
and the multi-task adapter; and on held-out rows of tasks that were trained on.

Without --cells all are made, --processes at a time; what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from common import HEADS, RESULTS, ROOT, Experiment, parser

from joint_adapters import write_tasks
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.adapters import TaskScores, as_json
from text_to_lora.evaluation.conditions import Sources, group_of, plan_conditions
from text_to_lora.evaluation.paired import compare_conditions
from text_to_lora.evaluation.samples import read_samples, sample_path
from text_to_lora.evaluation.scoring import Scorer, choose_rows
from text_to_lora.evaluation.stats import GroupBootstrap
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.files import read_json
from text_to_lora.hypernet import load_hypernet
from text_to_lora.lora import load_adapter
from text_to_lora.models.find import base_to_load
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_data_dir
from text_to_lora.tasks.task import Task
from text_to_lora.training.config import RunConfig
from text_to_lora.training.data import split_by_group
from text_to_lora.training.reconstruction import reconstruct
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from text_to_lora.training.sft import train_sft

EXPERIMENT = "sft"
ONE_IN = 16  # as the library leaves out, and the embedded recipe sets aside
LOGS = 20  # lines of a run's history; steps are a multiple of it
REFERENCES = ("base", "in_prompt", "multitask")
OWN = ("matched", "shuffled", "junk")
METHODS = {
    "reconstruction": "reconstruction",
    "sft": "SFT",
    "both": "reconstruction first, SFT after",
}
PAIRS = (("sft", "reconstruction"), ("both", "reconstruction"), ("both", "sft"))
CALIBRATIONS = ("calibration-reconstruction", "calibration-sft")
HALF = "first-half"


class Comparison:
    """The runs and scores of the comparison, as cells."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.experiment = Experiment(options)
        self.work: Path = options.work
        self.makers: dict[str, Callable[[], dict[str, Any]]] = {
            "calibration-reconstruction": lambda: self._calibrate("reconstruction"),
            "calibration-sft": lambda: self._calibrate("sft"),
            **{
                run_name("reconstruction", lr): lambda lr=lr: self._reconstruct(lr)
                for lr in options.reconstruction_lr
            },
            **{run_name("sft", lr): lambda lr=lr: self._sft(lr) for lr in options.sft_lr},
            HALF: self._first_half,
            **{run_name("both", lr): lambda lr=lr: self._second_half(lr) for lr in options.sft_lr},
            "heldout-references": self._references,
            **{f"heldout-{method}": lambda m=method: self._heldout(m) for method in METHODS},
            **{f"seen-{name}": lambda n=name: self._seen(n) for name in SEEN},
            "differences": self._differences,
        }

    def make(self, name: str) -> dict[str, Any]:
        """A cell, made unless it is there.

        Raises ConfigError for a name that there is not.
        """
        if name not in self.makers:
            raise ConfigError(f"no cell {name!r}; there are {', '.join(self.makers)}")
        options = self.options
        return self.experiment.cell(
            name,
            self.makers[name],
            comparison={
                key: getattr(options, key)
                for key in (
                    "minutes", "head", "latent", "head_in", "tasks_per_batch", "rows_per_batch",
                    "descriptions", "heldout_rows", "validation_rows", "seen_tasks",
                )
            },
        )  # fmt: skip

    def chosen(self, method: str) -> float:
        """The learning rate with the lowest NLL on the groups set aside."""
        rates = (
            self.options.reconstruction_lr if method == "reconstruction" else self.options.sft_lr
        )
        found = {lr: self.make(run_name(method, lr))["validation"]["mean"] for lr in rates}
        return min(found, key=lambda lr: found[lr])

    def folder(self, method: str) -> Path:
        """The hypernetwork of the method's chosen run."""
        return self.work / run_name(method, self.chosen(method)) / "hypernet"

    def _steps(self, method: str, share: float = 1.0) -> int:
        """Steps that take this share of the time."""
        each = self.make(f"calibration-{method}")["seconds_per_step"]
        steps = round(share * 60 * self.options.minutes / each / LOGS) * LOGS
        return max(steps, LOGS)

    def _calibrate(self, method: str) -> dict[str, Any]:
        """Seconds of a step, from the second half of a short run."""
        folder, steps = self.work / f"calibration-{method}", self.options.calibration_steps
        if method == "sft":
            self._run_sft(folder, lr=1e-4, steps=2 * steps, log_every=steps)
        else:
            self._run_reconstruction(folder, lr=1e-4, steps=2 * steps, log_every=steps)
        first, second = train_lines(folder)
        return {"seconds_per_step": (second["seconds"] - first["seconds"]) / steps}

    def _reconstruct(self, lr: float) -> dict[str, Any]:
        folder, steps = self.work / run_name("reconstruction", lr), self._steps("reconstruction")
        self._run_reconstruction(folder, lr=lr, steps=steps)
        return self._figures(folder, lr)

    def _sft(self, lr: float) -> dict[str, Any]:
        folder = self.work / run_name("sft", lr)
        self._run_sft(folder, lr=lr, steps=self._steps("sft"))
        return self._figures(folder, lr)

    def _first_half(self) -> dict[str, Any]:
        folder, lr = self.work / HALF, self.chosen("reconstruction")
        self._run_reconstruction(folder, lr=lr, steps=self._steps("reconstruction", 0.5))
        return self._figures(folder, lr)

    def _second_half(self, lr: float) -> dict[str, Any]:
        first = self.make(HALF)
        folder, start = self.work / run_name("both", lr), self.work / HALF / "hypernet"
        self._run_sft(folder, lr=lr, steps=self._steps("sft", 0.5), start=start)
        figures = self._figures(folder, lr)
        seconds = {"first": first["train_seconds"], "second": figures["train_seconds"]}
        steps = {"first": first["steps"], "second": figures["steps"]}
        total = round(sum(seconds.values()), 1)
        return {**figures, "train_seconds": total, "halves": {"seconds": seconds, "steps": steps}}

    def _figures(self, folder: Path, lr: float) -> dict[str, Any]:
        """What a run took, and its NLL on the groups set aside."""
        last = train_lines(folder)[-1]
        model = folder / "hypernet"
        return {
            "lr": lr,
            "steps": last["step"],
            "train_seconds": round(last["seconds"], 1),
            "parameters": load_hypernet(model).hypernet.num_parameters,
            "validation": self._validate(TextToLora.from_pretrained(model)),
        }

    def _validate(self, hypernet: TextToLora) -> dict[str, Any]:
        """NLL on rows of the groups that no training saw, each under its task's definition."""
        _, aside = split_by_group(list(self.experiment.tasks.values()), ONE_IN)
        aside = [task for task in aside if task.validation()]
        rows = choose_rows(
            aside,
            rows_per_task=self.options.validation_rows,
            seed=self.options.seed,
            examples=Task.validation,
        )
        places = {task.name: place for place, task in enumerate(aside)}
        scorer = Scorer(*self.experiment.base, max_new_tokens=0)
        with torch.no_grad():
            weights = hypernet.generate([task.definition for task in aside]).weights.detach()
        answers = scorer.score(
            rows, weights=weights, adapters=[places[row.task.name] for row in rows]
        )
        nll: dict[str, list[float]] = {}
        for row, answer in zip(rows, answers, strict=True):
            nll.setdefault(row.task.name, []).append(answer.nll)
        bootstrap = GroupBootstrap({t.name: group_of(t) for t in aside}, seed=self.options.seed)
        means = {task: sum(values) / len(values) for task, values in nll.items()}
        return {"tasks": len(aside), "rows": len(rows), **as_json(bootstrap.mean(means))}

    def _run_reconstruction(
        self, folder: Path, *, lr: float, steps: int, log_every: int | None = None
    ) -> None:
        options = self.options
        config = ReconstructionConfig.from_dict(
            {
                "data": {
                    "tasks_per_batch": options.tasks_per_batch,
                    "descriptions_per_task": options.descriptions,
                },
                "conditioning": {"kind": "text"},
                "encoder": {"name": options.encoder, "cache_dir": str(self.work / "embeddings")},
                "hypernet": self._sizes(),
                "objective": {"target": "zscore"},
                "optimizer": {"lr": lr},
                "run": self._length(steps, log_every) | {"eval_every": steps, "select_by": "last"},
            }
        )
        reconstruct(self.experiment.library, config, output_dir=folder, report=tell(folder.name))

    def _run_sft(
        self,
        folder: Path,
        *,
        lr: float,
        steps: int,
        log_every: int | None = None,
        start: Path | None = None,
    ) -> None:
        options, spec = self.options, self.experiment.library.spec
        config = RunConfig.from_dict(
            {
                "base": {
                    "name": options.base or base_to_load(spec.base.name, spec.base.revision),
                    "alias": spec.base.name,
                    "revision": spec.base.revision,
                    "dtype": "auto",
                    "attention": "eager",  # faster for short rows on a CPU
                },
                "adapter": {
                    "targets": list(dict.fromkeys(group.module for group in spec.groups)),
                    "rank": spec.rank,
                    "alpha": spec.alpha,
                    "rslora": spec.rslora,
                    "layers": sorted({slot.layer for slot in spec.slots}),
                },
                "encoder": {"name": options.encoder, "cache_dir": str(self.work / "embeddings")},
                "hypernet": {
                    **self._sizes(),
                    "start_from": None if start is None else str(start),
                },
                "data": {
                    "folders": [str(self._task_folder())],
                    "descriptions_per_task": options.descriptions,
                    "validation_one_in": 0,
                    "family_tasks": 0,
                    "family_share": 0,
                    "tasks_per_batch": options.tasks_per_batch,
                    "examples_per_task": options.rows_per_batch,
                    "max_prompt_tokens": 112,
                    "max_answer_tokens": 32,
                    "eval_rows": 0,  # validation would take of the run's time
                },
                "optimizer": {"lr": lr, "warmup": 0.1, "accumulation": 4},
                "objective": {"label_smoothing": 0.0, "neftune_alpha": 0.0},
                "run": self._length(steps, log_every),
            }
        )
        train_sft(config, output_dir=folder, report=tell(folder.name))

    def _sizes(self) -> dict[str, Any]:
        options = self.options
        return {
            "head": HEADS[options.head],
            "latent_size": options.latent,
            "head_in_size": options.head_in,
            "dropout": 0.05,
        }

    def _length(self, steps: int, log_every: int | None) -> dict[str, Any]:
        return {
            "steps": steps,
            "seed": self.options.seed,
            "log_every": log_every or steps // LOGS,
            "save_every": max(1, steps // 4),
            "keep_checkpoints": 1,
            "device": "cpu",
        }

    def _task_folder(self) -> Path:
        """The training rows of the library's tasks as a task folder."""
        folder = self.work / "tasks"
        if not folder.exists():
            write_tasks(folder, self.experiment.named(self.experiment.library.names))
        return folder

    def _evaluate(self, folder: Path, kinds: Sequence[str], model: Path | None) -> dict[str, Any]:
        base, tokenizer = self.experiment.base
        hypernet = None if model is None else TextToLora.from_pretrained(model)
        multitask = self.options.multitask
        tasks = load_data_dir(self.options.data, self.options.heldout_split)
        sources = Sources(
            generate=None if hypernet is None else lambda texts: hypernet.generate(texts).weights,
            multitask=None
            if multitask is None
            else load_adapter(multitask, base_config=base.config),
        )
        possible = [kind for kind in kinds if kind != "multitask" or multitask is not None]
        report = evaluate_suite(
            base=base,
            tokenizer=tokenizer,
            tasks=tasks,
            conditions=plan_conditions(
                possible, replace(sources, tasks=tasks, seed=self.options.seed)
            ),
            output_dir=folder,
            rows_per_task=self.options.heldout_rows,
            seed=self.options.seed,
            label_likelihood=False,
            provenance={"hypernet": None if hypernet is None else hypernet.fingerprint},
            progress=tell(folder.name),
        )
        return {key: report[key] for key in ("conditions", "differences", "gap_closed", "settings")}

    def _references(self) -> dict[str, Any]:
        return self._evaluate(self.work / "heldout" / "references", REFERENCES, None)

    def _heldout(self, method: str) -> dict[str, Any]:
        """The chosen run on the held-out tasks, beside the references' samples."""
        self.make("heldout-references")
        folder = self.work / "heldout" / method
        for kind in REFERENCES:
            source, target = (
                sample_path(self.work / "heldout" / part, kind) for part in ("references", method)
            )
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        report = self._evaluate(folder, (*REFERENCES, *OWN), self.folder(method))
        return {"lr": self.chosen(method), **report}

    def _seen(self, name: str) -> dict[str, Any]:
        """Held-out rows of tasks that were trained on, under base, oracles or a chosen run."""
        library = self.experiment.library
        names = Random(f"{self.options.seed}/seen").sample(
            library.names, min(self.options.seen_tasks, len(library))
        )
        tasks = self.experiment.named(names)
        if name == "base":
            weights = None
        elif name == "oracle":
            weights = library.select(names).weights
        else:
            hypernet = TextToLora.from_pretrained(self.folder(name))
            with torch.no_grad():
                weights = hypernet.generate([task.definition for task in tasks]).weights.detach()
        scores: TaskScores = self.experiment.score(names, weights)
        return {
            "summary": self.experiment.report(names).summary(scores),
            "tasks": scores.to_dict(),
        }

    def _differences(self) -> dict[str, Any]:
        """Methods against each other on the held-out tasks, paired by row, and on seen tasks."""
        for method in METHODS:
            self.make(f"heldout-{method}")
        samples = {
            method: read_samples(sample_path(self.work / "heldout" / method, "matched"))[0]
            for method in METHODS
        }
        heldout: dict[str, Any] = {}
        for first, second in PAIRS:
            for measure in ("nll", "score"):
                found = compare_conditions(
                    samples[first], samples[second], measure=measure, seed=self.options.seed
                )
                heldout.setdefault(f"{first} - {second}", {})[measure] = {
                    **as_json(found.difference),
                    "tasks": found.tasks,
                    "tasks_better": found.tasks_better,
                }
        seen = {name: TaskScores.from_dict(self.make(f"seen-{name}")["tasks"]) for name in SEEN}
        report = self.experiment.report(list(seen["base"].nll))
        return {
            "heldout": heldout,
            "seen": {f"{a} - {b}": report.difference(seen[a], seen[b]) for a, b in PAIRS},
        }


SEEN = ("base", "oracle", *METHODS)


def run_name(method: str, lr: float) -> str:
    """Name of a run and of its cell."""
    return f"{method}-{lr:g}"


def train_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's history that are of training."""
    text = (folder / "history.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def tell(name: str) -> Callable[[str], None]:
    """Prints progress under a name."""
    return lambda line: print(f"{name}: {line}", flush=True)


def stages(options: argparse.Namespace) -> list[list[str]]:
    """Cells that may be made at once; those of a stage need the stages before."""
    return [
        list(CALIBRATIONS),
        [
            *(run_name("reconstruction", lr) for lr in options.reconstruction_lr),
            *(run_name("sft", lr) for lr in options.sft_lr),
        ],
        [HALF, "heldout-references", "seen-base", "seen-oracle"],
        [*(run_name("both", lr) for lr in options.sft_lr)],
        [*(f"heldout-{method}" for method in METHODS), *(f"seen-{method}" for method in METHODS)],
        ["differences"],
    ]


def run_all(options: argparse.Namespace) -> None:
    """Make every cell, some processes at a time.

    Raises SystemExit when one fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}

    def run(name: str) -> int:
        return subprocess.run(
            [sys.executable, *sys.argv, "--cells", name], env=environment
        ).returncode

    for stage in stages(options):
        waiting = [name for name in stage if not (options.out / f"{name}.json").exists()]
        with ThreadPoolExecutor(options.processes) as pool:
            failed = [
                name for name, code in zip(waiting, pool.map(run, waiting), strict=True) if code
            ]
        if failed:
            raise SystemExit(f"{', '.join(failed)} failed; what is finished is kept")


def markdown(results: Path = RESULTS / EXPERIMENT) -> str:
    """The tables of the comparison, from its cells.

    Raises FileNotFoundError when a cell is not there yet.
    """

    def read(name: str) -> dict[str, Any]:
        path = results / f"{name}.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there yet; run sft_comparison.py")
        return read_json(path)

    runs = {method: read(chosen_name(results, method)) for method in METHODS}
    heldout = {method: read(f"heldout-{method}") for method in METHODS}
    references = read("heldout-references")["conditions"]
    differences = read("differences")
    rows = [
        [METHODS[method], f"{run['train_seconds']:.0f}", steps(run), f"{run['lr']:g}"]
        + [show(run["validation"])]
        + [
            show(heldout[method]["conditions"][kind][measure])
            for kind, measure in (("matched", "nll"), ("matched", "score"), ("shuffled", "nll"))
        ]
        + [show(heldout[method]["conditions"]["junk"]["nll"])]
        for method, run in runs.items()
    ]
    rows += [
        [name, "", "", "", "", show(found["nll"]), show(found["score"]), "", ""]
        for name, found in references.items()
    ]
    head = [
        "trained by", "seconds", "steps", "rate", "NLL, validation groups", "NLL, matched",
        "score, matched", "NLL, shuffled", "NLL, junk",
    ]  # fmt: skip
    controls = [
        [METHODS[method], control, *paired(heldout[method]["differences"][f"matched - {control}"])]
        for method in METHODS
        for control in ("base", "shuffled", "junk", "multitask", "in_prompt")
        if f"matched - {control}" in heldout[method]["differences"]
    ]
    between = [
        [where, name, *paired(differences[key][name])]
        for where, key in (("unseen tasks", "heldout"), ("seen tasks", "seen"))
        for name in differences[key]
    ]
    seen = [
        [METHODS.get(name, name), show(cell["summary"]["nll"]), show(cell["summary"]["score"])]
        for name in SEEN
        for cell in (read(f"seen-{name}"),)
    ]
    trials = [
        [METHODS[method], f"{run['lr']:g}", f"{run['train_seconds']:.0f}", show(run["validation"])]
        for method in METHODS
        for run in (read(path.stem) for path in trial_paths(results, method))
    ]
    paired_head = ["NLL", "tasks better", "score", "tasks better"]
    return "\n\n".join(
        [
            table(head, rows),
            "Matched against each control on the unseen tasks, paired:",
            table(["trained by", "matched -", *paired_head], controls),
            "Methods against each other, matched, paired:",
            table(["tasks", "difference", *paired_head], between),
            "Tasks that were trained on, held-out rows:",
            table(["adapters", "NLL", "score"], seen),
            "All runs; of each method the one with the lower NLL on validation groups counts:",
            table(["trained by", "rate", "seconds", "NLL, validation groups"], trials),
        ]
    )


def trial_paths(results: Path, method: str) -> list[Path]:
    """The cells of a method's runs, by learning rate."""
    found = [
        path
        for path in results.glob(f"{method}-*.json")
        if path.stem.removeprefix(f"{method}-")[:1].isdigit()
    ]
    return sorted(found, key=lambda path: float(path.stem.removeprefix(f"{method}-")))


def chosen_name(results: Path, method: str) -> str:
    """The cell of a method's run that counts."""
    paths = trial_paths(results, method)
    if not paths:
        raise FileNotFoundError(f"{results} has no run of {method}; run sft_comparison.py")
    best = min(paths, key=lambda path: float(read_json(path)["validation"]["mean"]))
    return best.stem


def steps(run: dict[str, Any]) -> str:
    """Steps of a run, of both halves where it has two."""
    halves = run.get("halves")
    return str(run["steps"]) if halves is None else " + ".join(map(str, halves["steps"].values()))


def show(interval: dict[str, Any] | None) -> str:
    """A mean with its interval."""
    if interval is None or interval["mean"] is None:
        return ""
    if interval["low"] is None:
        return f"{interval['mean']:.3f}"
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def paired(found: dict[str, Any]) -> list[str]:
    """Cells of a paired difference; bold where the interval is clear of zero."""
    cells = []
    for measure in ("nll", "score"):
        difference = found[measure]
        low, high = difference["low"], difference["high"]
        clear = low is not None and high is not None and low * high > 0
        text = show(difference)
        cells += [
            f"**{text}**" if clear else text,
            f"{difference['tasks_better']}/{difference['tasks']}",
        ]
    return cells


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Make the cells that are not made yet."""
    arguments = parser(__doc__, EXPERIMENT, rows=10)
    add = arguments.add_argument
    add("--multitask", type=Path, help="PEFT folder of the multi-task adapter")
    add("--minutes", type=float, default=8.0, help="training time of each (default 8)")
    add("--processes", type=int, default=2, help="cells at a time (default 2)")
    add("--cells", type=lambda text: text.split(","), help="names with commas; default: all")
    add("--reconstruction-lr", type=float, nargs="+", default=[1e-3, 3e-3], help="rates to try")
    add("--sft-lr", type=float, nargs="+", default=[3e-4, 1e-3], help="rates to try")
    add("--head", choices=list(HEADS), default="L", help="of all (default L)")
    add("--latent", type=int, default=256, help="latent size (default 256)")
    add("--head-in", type=int, default=192, help="heads' input (default 192)")
    add("--tasks-per-batch", type=int, default=16, help="tasks a step (default 16)")
    add("--rows-per-batch", type=int, default=2, help="rows of each, of SFT (default 2)")
    add("--descriptions", type=int, default=12, help="of a task (default 12)")
    add("--encoder", default="minilm", help="of descriptions (default minilm)")
    add("--calibration-steps", type=int, default=20, help="steps that are timed (default 20)")
    add("--heldout-split", default="dev_heldout", help="split scored once (default dev_heldout)")
    add("--heldout-rows", type=int, default=20, help="rows a held-out task (default 20)")
    add("--validation-rows", type=int, default=4, help="rows a validation task (default 4)")
    add("--seen-tasks", type=int, default=16, help="trained tasks that are scored (default 16)")
    add("--work", type=Path, default=ROOT / "runs" / "sft-comparison", help="folder of the runs")
    options = arguments.parse_args()
    if options.cells is None:
        run_all(options)
        return
    comparison = Comparison(options)
    for name in options.cells:
        comparison.make(name)


if __name__ == "__main__":
    main()
