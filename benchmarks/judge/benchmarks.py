"""Our suite on public benchmarks, BIG-bench, law and medicine; docs/benchmarks.md from its JSON.

    python benchmarks/judge/benchmarks.py --data DIR [--suites law,medicine] [--minutes 2]
    python benchmarks/judge/benchmarks.py --render [--check]

One base model and hypernetwork, the embedded ones by default, on the collections benchmarks, bbh,
bigbench_ii, legalbench and medical of the data. What is finished is not scored again; --minutes
stops between two parts. Nothing is tuned on these tasks.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.code import CodeGrader, load_code_tests, measure_isolation
from text_to_lora.evaluation.conditions import Sources, group_of, plan_conditions
from text_to_lora.evaluation.metrics import normalise
from text_to_lora.evaluation.paired import compare_conditions
from text_to_lora.evaluation.readers import (
    Reading,
    compare_readers,
    over_rows,
    read_samples_twice,
    reference_code,
)
from text_to_lora.evaluation.samples import Sample, read_samples, sample_path
from text_to_lora.evaluation.scoring import held_out
from text_to_lora.evaluation.stats import GroupBootstrap, Interval
from text_to_lora.evaluation.suite import evaluate_suite
from text_to_lora.evaluation.tables import table
from text_to_lora.files import file_hash, read_json, write_json
from text_to_lora.lora.peft_format import load_adapter
from text_to_lora.models.base import load_base
from text_to_lora.models.find import find_adapter
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.task import Task

sys.path.append(str(Path(__file__).parent))
from judging import RESULTS, ROOT, as_json

from recorded import command, machine

PAGE = ROOT / "docs" / "benchmarks.md"
WORK = ROOT / "runs" / "judge-benchmarks"
SEED = 0
PARAPHRASES = 1
KINDS = ("base", "in_prompt", "multitask", "matched", "paraphrase", "shuffled", "junk")
CONTROLS = ("base", "in_prompt", "multitask", "shuffled", "junk")
LONG = ("final_number", "code_execution")  # metrics of answers that are reasoned or programmed


@dataclass(frozen=True)
class Suite:
    """What is reported together.

    folder: of its tasks in the data; splits: of its tasks, unseen ones first
    """

    title: str
    about: str
    folder: str
    splits: tuple[str, ...]


SUITES = {
    "benchmarks": Suite(
        "Public benchmarks",
        "Nine of the paper's ten and Social IQa; HellaSwag is not in the data. Prompts are short "
        "forms of the paper's, its 3-shot and prefilled forms are not made here.",
        "benchmarks",
        ("benchmarks",),
    ),
    "bbh": Suite("BIG-Bench Hard", "For evaluation only.", "bbh", ("eval_only",)),
    "bigbench_ii": Suite(
        "BIG-bench, instruction induction's subset",
        "For evaluation only.",
        "bigbench_ii",
        ("eval_only",),
    ),
    "law": Suite(
        "Law",
        "LegalBench: `diversity_2` is unseen. The other tasks are training tasks, reported as seen, "
        "on rows that training left out (idx % 10 == 9).",
        "legalbench",
        ("dev_heldout", "train"),
    ),
    "medicine": Suite(
        "Medicine", "Medical Abstracts, which is unseen.", "medical", ("dev_heldout",)
    ),
}


@dataclass(frozen=True)
class Part:
    """What is scored in one go: tasks of a suite whose answers are alike in length.

    rows: most rows a task
    """

    suite: str
    long: bool
    rows: int
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.suite}-long" if self.long else self.suite

    def takes(self, task: Task) -> bool:
        """Whether the task is scored here."""
        return (task.metric.kind in LONG) == self.long


PARTS = (
    Part("benchmarks", False, rows=100, max_new_tokens=32),
    Part("benchmarks", True, rows=20, max_new_tokens=160),
    Part("medicine", False, rows=100, max_new_tokens=32),
    Part("bbh", False, rows=20, max_new_tokens=32),
    Part("bigbench_ii", False, rows=20, max_new_tokens=32),
    Part("law", False, rows=10, max_new_tokens=32),
)

Kinds = dict[str, list[Sample]]
"""Samples by kind of condition, all of its conditions together."""


class _OutOfTime(Exception):
    """The minutes of this run are over; what is scored is kept."""


def tasks_of(suite: Suite, data: Path) -> list[Task]:
    """The tasks of a suite, unseen ones first.

    Raises ConfigError when the data has none.
    """
    tasks = load_folder(data / suite.folder)
    chosen = [task for split in suite.splits for task in tasks if task.split == split]
    if not chosen:
        raise ConfigError(
            f"{str(data / suite.folder)!r} has no task of split {' or '.join(suite.splits)}"
        )
    return chosen


def score(options: argparse.Namespace, suites: Mapping[str, list[Task]]) -> None:
    """Score the parts of every suite and write its JSON.

    Raises _OutOfTime when --minutes are over, between two parts of a condition.
    """
    deadline = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    t2l = TextToLora.from_pretrained(options.model)
    base, tokenizer = load_base(spec=t2l.spec)
    sources = Sources(
        generate=lambda texts: t2l.generate(texts).weights,
        multitask=load_adapter(find_adapter(options.multitask), base_config=base.config),
        paraphrases=PARAPHRASES,
    )
    # Donors of shuffled descriptions come from all suites: one alone has too few unlike tasks.
    everything = [task for suite in SUITES.values() for task in tasks_of(suite, options.data)]
    plan = plan_conditions(KINDS, everything, sources, seed=SEED)
    grade = CodeGrader(load_code_tests(options.data)) if options.allow_code_execution else None

    def watch(line: str) -> None:
        print(line, flush=True)
        if time.monotonic() > deadline:
            raise _OutOfTime

    for name, members in suites.items():
        for part in _parts(name):
            tasks = [task for task in members if part.takes(task)]
            print(f"== {part.name}", flush=True)
            most = max(len(task.descriptions) for task in tasks)
            evaluate_suite(
                base=base,
                tokenizer=tokenizer,
                tasks=tasks,
                baselines=[b for b in plan if _paraphrase(b.name) < most],
                output_dir=options.work / part.name,
                rows_per_task=part.rows,
                seed=SEED,
                max_new_tokens=part.max_new_tokens,
                whole_answers=True,  # the readers find a label inside a sentence
                grade=grade,
                provenance={"hypernet": t2l.fingerprint, "suite": name},
                progress=watch,
            )
        finish(options, name, members)


def _parts(suite: str) -> list[Part]:
    return [part for part in PARTS if part.suite == suite]


def is_finished(options: argparse.Namespace, name: str) -> bool:
    """Whether a suite's JSON is there.

    Raises ConfigError when it is of other parts.
    """
    path = options.out / f"benchmarks-{name}.json"
    if not path.exists():
        return False
    if read_json(path)["parts_scored"] != _sizes_of(name):
        raise ConfigError(f"{str(path)!r} is of other parts; delete it, or choose another --out")
    print(f"{name}: finished before", flush=True)
    return True


def _sizes_of(suite: str) -> list[dict[str, int]]:
    return [{"rows": p.rows, "max_new_tokens": p.max_new_tokens} for p in _parts(suite)]


def _paraphrase(condition: str) -> int:
    """Place of the description that a condition takes; 0 for other conditions."""
    kind, _, number = condition.partition(".")
    return int(number) if kind == "paraphrase" else 0


def read_kinds(folders: Iterable[Path]) -> tuple[Kinds, float]:
    """Samples by kind, and the seconds that scoring them took."""
    found: Kinds = defaultdict(list)
    seconds = 0.0
    for folder in folders:
        for name in read_json(folder / "run.json")["conditions"]:
            samples, metadata = read_samples(sample_path(folder, name))
            found[name.partition(".")[0]] += samples
            seconds += metadata["seconds"]
    return {kind: found[kind] for kind in KINDS if kind in found}, seconds


def judge(
    kinds: Kinds, tasks: Sequence[Task], reference_grade: Callable[[Sample], float] | None
) -> dict[str, Any]:
    """Scores of a suite against chance, differences of its conditions, and both readers.

    The score of a choice, a truth value or a number is that of the correct reader.
    """
    labels = {task.name: task.metric.labels for task in tasks}
    readings = {
        kind: read_samples_twice(samples, labels, reference_grade)
        for kind, samples in kinds.items()
    }
    read = {kind: _rescored(samples, readings[kind]) for kind, samples in kinds.items()}
    described = {task.name: _describe(task, read) for task in tasks}
    bootstrap = GroupBootstrap({task.name: group_of(task) for task in tasks}, seed=SEED)
    parts = {}
    for name, members in (
        ("unseen", [task for task in tasks if task.split != "train"]),
        ("seen", [task for task in tasks if task.split == "train"]),
    ):
        if members:
            names = [task.name for task in members]
            parts[name] = _overall(names, described, read, bootstrap)
    return {
        "tasks": described,
        "parts": parts,
        "readers": {
            kind: compare_readers(found, seed=SEED) for kind, found in readings.items() if found
        },
    }


def _rescored(samples: Sequence[Sample], readings: Sequence[Reading]) -> list[Sample]:
    """The samples, with the correct reader's score where there is one."""
    scores = {id(reading.sample): reading.correct for reading in readings}
    return [replace(sample, score=scores.get(id(sample), sample.score)) for sample in samples]


def _describe(task: Task, kinds: Kinds) -> dict[str, Any]:
    """A task: its sizes, its chance level, and every condition's scores."""
    rows = held_out(task)
    own = {kind: [s for s in samples if s.task == task.name] for kind, samples in kinds.items()}
    first = next(samples for samples in own.values() if samples)
    chance = chance_level(task)
    conditions = {}
    for kind, samples in own.items():
        if not samples:
            continue
        conditions[kind] = {
            name: {**as_json(interval), "clear_of_chance": clear_of(interval, chance)}
            for name, values in (("score", _by_row(samples, "score")), *_likelihood(samples))
            for interval in [over_rows(values, seed=SEED)]
        } | {"nll": _mean(_by_row(samples, "nll"))}
    return {
        "group": group_of(task),
        "metric": task.metric.kind,
        "seen": task.split == "train",
        "labels": len(task.metric.labels),
        "chance": chance,
        "rows_scored": len({sample.idx for sample in first}),
        "rows_that_may_be_scored": len(rows),
        "rows_available": len(task.examples),
        "prompts_cut": sum(sample.cut for sample in first),
        "conditions": conditions,
    }


def chance_level(task: Task) -> float | None:
    """Score of a blind answer: one of the labels, or always the most frequent one.

    0 for answers that cannot be hit blindly, None for ROUGE-L, which gives shares of an answer.
    """
    if task.metric.kind == "rougeL":
        return None
    if task.metric.kind != "classification":
        return 0.0
    rows = held_out(task)
    answers = Counter(normalise(output) for row in rows for output in set(row.outputs))
    return max(1 / len(task.metric.labels), answers.most_common(1)[0][1] / len(rows))


def clear_of(interval: Interval, level: float | None) -> bool:
    """Whether all of an interval lies above a level; never where there is no interval."""
    return level is not None and interval.low is not None and interval.low > level


def _likelihood(samples: Sequence[Sample]) -> list[tuple[str, list[float]]]:
    has = all(sample.label_score is not None for sample in samples)
    return [("label_score", _by_row(samples, "label_score"))] if has else []


def _by_row(samples: Iterable[Sample], field: str) -> list[float]:
    """A value a row; conditions of one kind are averaged."""
    rows: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        rows[sample.idx].append(getattr(sample, field))
    return [_mean(values) for _, values in sorted(rows.items())]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _overall(
    names: Sequence[str],
    described: Mapping[str, Any],
    kinds: Kinds,
    bootstrap: GroupBootstrap,
) -> dict[str, Any]:
    """Conditions over the tasks of one part, over source groups, and matched minus the others."""
    conditions = {}
    for kind in kinds:
        above: dict[str, dict[str, float]] = defaultdict(dict)
        for name in names:
            chance, found = described[name]["chance"], described[name]["conditions"].get(kind, {})
            for measure in ("score", "label_score"):
                if chance is not None and measure in found:
                    above[measure][name] = found[measure]["mean"] - chance
        conditions[kind] = {
            measure: {**as_json(interval), "tasks": len(values), "clear": clear_of(interval, 0)}
            for measure, values in above.items()
            for interval in [bootstrap.mean(values)]
        }
    chosen = {kind: [s for s in samples if s.task in names] for kind, samples in kinds.items()}
    differences = {
        f"matched - {than}": {
            measure: compare_conditions(
                chosen["matched"], chosen[than], measure=measure, seed=SEED
            ).to_dict()
            for measure in ("nll", "score")
        }
        for than in CONTROLS
        if chosen.get(than)
    }
    return {
        "tasks": len(names),
        "groups": len({described[name]["group"] for name in names}),
        "above_chance": conditions,
        "differences": differences,
    }


def finish(options: argparse.Namespace, name: str, tasks: Sequence[Task]) -> None:
    """Write the JSON of a suite whose parts are all scored."""
    parts = _parts(name)
    kinds, seconds = read_kinds(options.work / part.name for part in parts)
    code: dict[str, Any] | None = None
    grade: Callable[[Sample], float] | None = None
    if any(task.metric.kind == "code_execution" for task in tasks):
        grader = CodeGrader(load_code_tests(options.data), reader=reference_code)

        def grade(sample: Sample) -> float:
            return float(grader.grade(sample.task, sample.input, sample.answer).passed)

        isolation = measure_isolation()
        code = {
            "runner": "text_to_lora.evaluation.code",
            "network_cut": isolation.network,
            "processes_cut": isolation.processes,
            "files_cut": isolation.files,
        }
    run = read_json(options.work / parts[0].name / "run.json")["settings"]
    write_json(
        options.out / f"benchmarks-{name}.json",
        {
            "suite": name,
            "command": command(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine() | {"threads": options.threads},
            "seconds": round(seconds, 1),
            "model": options.model,
            "hypernet": run["provenance"]["hypernet"],
            "base": run["base"],
            "seed": SEED,
            "max_length": run["max_length"],
            "parts_scored": _sizes_of(name),
            "data": {file: file_hash(options.data / file) for file in _files(name)},
            "code": code,
            **judge(kinds, tasks, grade),
        },
    )


def _files(name: str) -> list[str]:
    return [f"{SUITES[name].folder}/{file}" for file in ("tasks.json", "data.parquet")]


# The page

INTRODUCTION = (
    "The suite's conditions on tasks that the paper, or its critics, name. This page is written by "
    "`benchmarks/judge/benchmarks.py --render` from the JSON in `benchmarks/results/judge/`, its "
    "verdicts too. Scores are of greedy answers, by the correct reader of choices, truth values and "
    "numbers, and else by the task's metric; brackets are 95% bootstrap intervals, over the rows of "
    "one task or over the source groups of several. Chance is the score of a blind answer: one label "
    "of the set, or always the most frequent one, whichever is more. Answers run to 32 tokens, also "
    "where a label is asked for, and to 160 where they are reasoned or programmed. "
    "Conditions: base alone; in_prompt, the definition in the prompt; multitask, one adapter for all; "
    "matched and paraphrase, the adapter of the task's definition and of other descriptions; "
    "shuffled, of other tasks'; junk, of texts that describe nothing."
)


def page(results: Path) -> str:
    """The page as Markdown; suites without JSON are left out."""
    cells = read_cells(results)
    parts = ["# Benchmarks: our suite", INTRODUCTION]
    if cells:
        parts.append(_summary(cells))
    for name, cell in cells.items():
        parts += _section(name, cell)
    if "benchmarks" in cells:
        parts += _beside_paper(cells["benchmarks"])
    if cells:
        parts += ["## Commands", _commands(cells)]
    return "\n\n".join(parts) + "\n"


def read_cells(results: Path) -> dict[str, Any]:
    """The JSON of the suites that are there, by name."""
    files = {name: results / f"benchmarks-{name}.json" for name in SUITES}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def _summary(cells: Mapping[str, Any]) -> str:
    """One sentence about all suites, from their intervals."""
    clear = [
        SUITES[name].title
        for name, cell in cells.items()
        if "unseen" in cell["parts"] and _clear_measures(cell, "unseen", "matched")
    ]
    start = "**Verdict.** Of unseen tasks, the matched adapter is clear of chance"
    if not clear:
        return (
            f"{start} in none of the {len(cells)} suites. At this scale the page checks the plumbing, "
            "and no claim about benchmarks is made from it."
        )
    return (
        f"{start} in {len(clear)} of {len(cells)} suites ({', '.join(clear)}). At this scale the "
        "page checks the plumbing; where scores are at chance, no claim is made from it."
    )


def _clear_measures(cell: Mapping[str, Any], part: str, kind: str) -> list[str]:
    """Measures in which a condition is clear of chance over a part of a suite.

    Over source groups where there are several, else over the rows of its only task.
    """
    clear = [
        MEASURES[measure]
        for measure, found in cell["parts"][part]["above_chance"].get(kind, {}).items()
        if found["clear"]
    ]
    if cell["parts"][part]["groups"] == 1:
        names = [n for n, task in cell["tasks"].items() if task["seen"] == (part == "seen")]
        if len(names) == 1:
            found = cell["tasks"][names[0]]["conditions"].get(kind, {})
            clear = [t for m, t in MEASURES.items() if m in found and found[m]["clear_of_chance"]]
    return clear


MEASURES = {"score": "generated answers", "label_score": "labels by likelihood"}


def verdict(cell: Mapping[str, Any], part: str) -> str:
    """What may be claimed of one part of a suite, computed from its intervals."""
    found = cell["parts"][part]
    kinds = [kind for kind in KINDS if kind in found["above_chance"]]
    clear = {kind: _clear_measures(cell, part, kind) for kind in kinds}
    said = [f"{kind} ({', '.join(measures)})" for kind, measures in clear.items() if measures]
    others = [kind for kind in kinds if not clear[kind]]
    if not said:
        first = "No condition is clear of chance: these figures check the plumbing alone."
    else:
        first = f"Clear of chance: {', '.join(said)}."
        if others:
            first += f" At chance, so that nothing is claimed of them: {', '.join(others)}."
    tasks = [
        task["conditions"]["matched"]
        for task in cell["tasks"].values()
        if task["seen"] == (part == "seen") and task["chance"] and "matched" in task["conditions"]
    ]
    hits = sum(task["score"]["clear_of_chance"] for task in tasks)
    second = (
        f"Task by task, matched is clear of chance in {hits} of {len(tasks)}, where luck alone gives "
        f"about {len(tasks) * 0.025:.1f}."
    )
    third = []
    for name, difference in found["differences"].items():
        if name in ("matched - shuffled", "matched - in_prompt"):
            word = {True: "clear of zero", False: "not clear of zero"}
            nll = difference["nll"]
            third.append(f"{name}: NLL {interval(nll)}, {word[nll['clear_of_zero']]}")
    return f"**Verdict, {part}.** {first} {second} {'; '.join(third)}."


def _section(name: str, cell: Mapping[str, Any]) -> list[str]:
    suite = SUITES[name]
    parts = [f"## {suite.title}", suite.about]
    for part, found in cell["parts"].items():
        tasks = {n: t for n, t in cell["tasks"].items() if t["seen"] == (part == "seen")}
        parts += [
            f"### {suite.title}: {part} tasks ({len(tasks)}, of {found['groups']} source groups)",
            verdict(cell, part),
            _differences(found["differences"]),
            "Scores; * is clear of chance. (l): of the label that is likeliest.",
            _scores(tasks),
        ]
    parts += ["### Rows", _sizes(cell["tasks"])]
    if any(found["tasks"] for found in cell["readers"].values()):
        parts += [
            "### Readers",
            "The same answers read correctly and as the reference reads them, all conditions that "
            "generate adapters or none.",
            _readers(cell["readers"]),
        ]
    if cell["code"]:
        cut = [n for n in ("network", "processes", "files") if cell["code"][f"{n}_cut"]]
        parts.append(
            "Programs were run by the package's own runner; tried and not possible there: "
            f"{', '.join(cut)}."
        )
    return parts


def _scores(tasks: Mapping[str, Any]) -> str:
    kinds = [k for k in KINDS if any(k in task["conditions"] for task in tasks.values())]
    rows = []
    for name, task in tasks.items():
        for measure in MEASURES:
            found = {k: c[measure] for k, c in task["conditions"].items() if measure in c}
            if not found:
                continue
            title = name.partition(".")[2] + (" (l)" if measure == "label_score" else "")
            chance = "–" if task["chance"] is None else f"{task['chance']:.2f}"
            cells = [
                f"{interval(found[k], 2)}{'*' * found[k]['clear_of_chance']}"
                if k == "matched"
                else f"{found[k]['mean']:.2f}{'*' * found[k]['clear_of_chance']}"
                if k in found
                else ""
                for k in kinds
            ]
            rows.append([title, chance, *cells])
    return table(["task", "chance", *kinds], rows)


def _differences(differences: Mapping[str, Any]) -> str:
    return table(
        ["", "NLL", "tasks with lower NLL", "score"],
        [
            [
                name,
                interval(found["nll"]),
                f"{found['nll']['tasks_better']} of {found['nll']['tasks']}",
                interval(found["score"]),
            ]
            for name, found in differences.items()
        ],
    )


def _sizes(tasks: Mapping[str, Any]) -> str:
    return table(
        ["task", "scored", "may be scored", "in the data", "prompts cut"],
        [
            [
                name.partition(".")[2],
                str(task["rows_scored"]),
                str(task["rows_that_may_be_scored"]),
                str(task["rows_available"]),
                str(task["prompts_cut"]),
            ]
            for name, task in tasks.items()
        ],
    )


def _readers(readers: Mapping[str, Any]) -> str:
    rows = []
    for kind, found in readers.items():
        overall = found["overall"]
        rows.append(
            [
                f"**{kind}**",
                "",
                "",
                *(interval(overall[name]) for name in ("correct", "reference", "difference")),
            ]
        )
        if kind not in ("base", "matched"):
            continue
        rows += [
            [
                f"{kind}, {name.partition('.')[2]}",
                task["kind"],
                f"{task['unread']:.2f}",
                f"{task['correct']:.3f}",
                f"{task['reference']:.3f}",
                interval(task["difference"]),
            ]
            for name, task in found["tasks"].items()
        ]
    return table(["", "kind", "not read", "correct", "reference", "correct - reference"], rows)


def _beside_paper(cell: Mapping[str, Any]) -> list[str]:
    """Our figures beside Table 2, read as the reference reads answers."""
    from text_to_lora.evaluation.benchmarks.published import (
        OurSet,
        compare_readings_with_paper,
        published,
    )

    sets = {
        name: OurSet(
            f"{task['rows_scored']} drawn of {task['rows_available']} rows, idx % 10 >= 5",
            task["rows_scored"],
            "prompt without instruction but under in_prompt",
        )
        for full, task in cell["tasks"].items()
        if (name := full.partition(".")[2]) in published().sets
    }
    remark = "the base is the small one that comes with the package; figures check the plumbing"
    text = compare_readings_with_paper(
        cell["readers"], sets, base="the embedded base", remarks=[remark]
    )
    return [re.sub(r"^#+ ", lambda mark: f"#{mark[0]}", text.strip(), flags=re.MULTILINE)]


def _commands(cells: Mapping[str, Any]) -> str:
    return table(
        ["suite", "command", "seconds of scoring", "on", "date"],
        [
            [
                name,
                f"`{cell['command']}`",
                f"{cell['seconds']:.0f}",
                f"{cell['machine']['threads']} of {cell['machine']['cores']} cores of "
                f"{cell['machine']['cpu']}",
                cell["date"],
            ]
            for name, cell in cells.items()
        ],
    )


def interval(found: Mapping[str, Any], digits: int = 3) -> str:
    """A mean and its interval in words."""
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "–"
    text = f"{mean:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def render(options: argparse.Namespace) -> None:
    """Write the page, or check it.

    Raises SystemExit when it has to be written again.
    """
    text = page(options.out)
    if not options.check:
        options.page.write_text(text, encoding="utf-8")
    elif not options.page.exists() or options.page.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{options.page} differs; run this script with --render alone")


def main() -> None:
    """Score, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of task collections")
    parser.add_argument("--model", default="embedded", help="hypernetwork")
    parser.add_argument("--multitask", default="embedded", help="multi-task adapter")
    parser.add_argument("--suites", default=",".join(SUITES), help="with commas; default: all")
    parser.add_argument("--minutes", type=float, help="stop after these; default: at the end")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the samples")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument(
        "--allow-code-execution", action="store_true", help="run generated code against its tests"
    )
    parser.add_argument("--render", action="store_true", help="write the page from the JSON")
    parser.add_argument("--check", action="store_true", help="with --render: fail where it differs")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    if options.render:
        render(options)
        return
    if options.data is None:
        parser.error("--data is needed to score; --render needs none")
    torch.set_num_threads(options.threads)
    chosen = options.suites.split(",")
    for name in chosen:
        if name not in SUITES:
            raise SystemExit(f"unknown suite {name!r}; choose among {', '.join(SUITES)}")
    left = [name for name in chosen if not is_finished(options, name)]
    suites = {name: tasks_of(SUITES[name], options.data) for name in left}
    try:
        if suites:
            score(options, suites)
    except _OutOfTime:
        print("out of time; the same command goes on", flush=True)


if __name__ == "__main__":
    main()
