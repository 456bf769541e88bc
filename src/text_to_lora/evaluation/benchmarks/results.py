"""Tables of public benchmarks, made from the logged questions alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BenchmarkTask
from text_to_lora.evaluation.benchmarks.published import OurSet, compare_with_paper
from text_to_lora.evaluation.benchmarks.questions import Question, question_path, read_questions
from text_to_lora.evaluation.paired import interval_dict
from text_to_lora.evaluation.samples import in_order
from text_to_lora.evaluation.stats import LEVEL, RESAMPLES, Floats, Interval
from text_to_lora.evaluation.tables import KINDS, table
from text_to_lora.files import check_format, read_json, write_file, write_json

FORMAT, VERSION = "text-to-lora benchmarks", 1
"""Of run.json, which lies beside the folder of samples."""

CONTROLS: Final = ("base", "in_prompt", "icl", "multitask", "shuffled", "junk")
UNVERIFIED: Final = "unverified: not run on a GPU"


def build_results(
    folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Make benchmarks.json and benchmarks.md from `folder`'s questions, without a model.

    Benchmarks stand in it that have every one of their tasks. Equal questions give equal files.

    Raises ConfigError when the folder holds no benchmarks.
    """
    folder = Path(folder)
    path = folder / "run.json"
    run = read_json(path)
    check_format(run, path, name=FORMAT, version=VERSION, error=ConfigError)
    tasks: dict[str, _Task] = {}
    for benchmark in BENCHMARKS:
        for task in benchmark.tasks:
            if task.name in run["tasks"]:
                tasks[task.name] = _read_task(folder, task, run["tasks"][task.name]["conditions"])
    chosen = [b for b in BENCHMARKS if all(t.name in tasks for t in b.tasks)]
    kinds = [
        kind
        for kind in KINDS
        if any(kind in tasks[task.name].kinds for b in chosen for task in b.tasks)
    ]
    if not kinds:
        raise ConfigError(f"{str(folder)!r} holds no questions; evaluate first")
    rng = numpy.random.default_rng(seed)
    results: dict[str, Any] = {
        "format": "text-to-lora benchmarks results",
        "version": VERSION,
        "settings": run["settings"],
        "status": "verified" if run["settings"]["verified"] else UNVERIFIED,
        "resamples": resamples,
        "benchmarks": {
            b.name: _benchmark(b, [tasks[t.name] for t in b.tasks], kinds, resamples, rng)
            for b in chosen
        },
    }
    results["average"] = _average(chosen, tasks, kinds, resamples, rng)
    write_json(folder / "benchmarks.json", results)
    text = render_results(results)
    write_file(folder / "benchmarks.md", lambda file: _write_text(file, text))
    return results


class _Task:
    """The questions of one task: a value for each row under each kind, and what was logged.

    kinds: values by kind, the mean over its conditions, [rows]
    parts: mean over the rows, by condition
    """

    def __init__(self, task: BenchmarkTask) -> None:
        self.task = task
        self.kinds: dict[str, Floats] = {}
        self.parts: dict[str, float] = {}
        self.logged: dict[str, Any] = {}
        self.cut: dict[str, int] = {}


def _read_task(folder: Path, task: BenchmarkTask, conditions: Mapping[str, Any]) -> _Task:
    read = _Task(task)
    several: dict[str, list[Sequence[Question]]] = {}
    for name in in_order(conditions):
        path = question_path(folder, task.name, name)
        if path.exists():
            questions, metadata = read_questions(path)
            several.setdefault(conditions[name]["kind"], []).append(questions)
            read.parts[name] = math.fsum(q.value for q in questions) / len(questions)
            read.logged[name] = metadata
            read.cut[name] = sum(q.cut for q in questions)
    for kind, passes in several.items():
        read.kinds[kind] = numpy.mean(
            [[q.value for q in questions] for questions in passes], axis=0
        )
    return read


def _benchmark(
    benchmark: Benchmark,
    tasks: Sequence[_Task],
    kinds: Sequence[str],
    resamples: int,
    rng: numpy.random.Generator,
) -> dict[str, Any]:
    there = [kind for kind in kinds if all(kind in task.kinds for task in tasks)]
    size = {task.task.name: len(next(iter(task.kinds.values()))) for task in tasks if task.kinds}
    differences = {}
    for first, second in _pairs(there):
        rows = [task.kinds[first] - task.kinds[second] for task in tasks]
        interval = bootstrap_mean(rows, resamples=resamples, rng=rng)
        differences[f"{first} - {second}"] = {
            **interval_dict(interval),
            "clear_of_zero": interval.clear_of_zero,
        }
    return {
        "hub": benchmark.hub,
        "sets": benchmark.sets,
        "metric": f"{benchmark.tasks[0].metric},{benchmark.tasks[0].filter}",
        "chance": math.fsum(task.chance for task in benchmark.tasks) / len(benchmark.tasks),
        "rows": sum(size.values()),
        "conditions": {
            kind: {
                "value": math.fsum(float(task.kinds[kind].mean()) for task in tasks) / len(tasks),
                "stderr": _stderr([task.kinds[kind] for task in tasks]),
                "parts": _parts(tasks, kind),
                "cut": sum(n for task in tasks for name, n in task.cut.items() if _is(name, kind)),
            }
            for kind in there
        },
        "differences": differences,
        "tasks": {
            task.task.name: {
                "rows": size.get(task.task.name, 0),
                "conditions": {
                    name: {"value": value, **task.logged[name]}
                    for name, value in task.parts.items()
                },
            }
            for task in tasks
        },
    }


def _parts(tasks: Sequence[_Task], kind: str) -> dict[str, float]:
    """Mean over the tasks of each condition of a kind that all of them have."""
    names = [
        name
        for name in tasks[0].parts
        if _is(name, kind) and all(name in task.parts for task in tasks)
    ]
    return {n: math.fsum(task.parts[n] for task in tasks) / len(tasks) for n in names}


def _is(name: str, kind: str) -> bool:
    return name.partition(".")[0] == kind


def _average(
    benchmarks: Sequence[Benchmark],
    tasks: Mapping[str, _Task],
    kinds: Sequence[str],
    resamples: int,
    rng: numpy.random.Generator,
) -> dict[str, Any]:
    """Plain mean over the benchmarks, for kinds that all of them have."""
    strata = [[tasks[task.name] for task in benchmark.tasks] for benchmark in benchmarks]
    there = [kind for kind in kinds if all(kind in t.kinds for several in strata for t in several)]
    differences = {}
    for first, second in _pairs(there):
        rows = [[t.kinds[first] - t.kinds[second] for t in several] for several in strata]
        interval = bootstrap_mean_of_means(rows, resamples=resamples, rng=rng)
        differences[f"{first} - {second}"] = {
            **interval_dict(interval),
            "clear_of_zero": interval.clear_of_zero,
        }
    values = {
        kind: math.fsum(
            math.fsum(float(t.kinds[kind].mean()) for t in several) / len(several)
            for several in strata
        )
        / len(strata)
        for kind in there
    }
    return {"conditions": values, "differences": differences}


def _pairs(kinds: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [("matched", control) for control in CONTROLS]
    pairs += [(kind, "base") for kind in ("in_prompt", "multitask", "shuffled", "junk")]
    return [(first, second) for first, second in pairs if first in kinds and second in kinds]


def bootstrap_mean(
    strata: Sequence[Floats], *, resamples: int, rng: numpy.random.Generator
) -> Interval:
    """Mean over strata of their mean, rows resampled inside each; percentile interval.

    Rows of a benchmark take few values, so that drawing how often each value comes (multinomial) is
    drawing rows with replacement, at a cost that does not grow with their number.
    """
    return bootstrap_mean_of_means([strata], resamples=resamples, rng=rng)


def bootstrap_mean_of_means(
    groups: Sequence[Sequence[Floats]], *, resamples: int, rng: numpy.random.Generator
) -> Interval:
    """As `bootstrap_mean`, for the mean over groups of strata."""
    mean = 0.0
    draws = numpy.zeros(resamples)
    smallest = min(len(rows) for strata in groups for rows in strata)
    for strata in groups:
        share = 1 / (len(groups) * len(strata))
        for rows in strata:
            values, counts = numpy.unique(rows, return_counts=True)
            drawn = rng.multinomial(len(rows), counts / len(rows), size=resamples)
            mean += share * float(rows.mean())
            draws += share * (drawn @ values) / len(rows)
    if smallest < 2:
        return Interval(mean, None, None)
    tail = 50 * (1 - LEVEL)
    low, high = numpy.percentile(draws, [tail, 100 - tail])
    return Interval(mean, float(low), float(high))


def _stderr(strata: Sequence[Floats]) -> float | None:
    """Standard error of the mean of the strata's means, as lm-eval has it for a task."""
    if min(map(len, strata)) < 2:
        return None
    squares = [float(rows.var(ddof=1)) / len(rows) for rows in strata]
    return math.sqrt(math.fsum(squares)) / len(strata)


def render_results(results: Mapping[str, Any]) -> str:
    """Give results as Markdown tables."""
    benchmarks = results["benchmarks"]
    titles = {b.name: b.title for b in BENCHMARKS}
    kinds = [k for k in KINDS if any(k in b["conditions"] for b in benchmarks.values())]
    average = results["average"]["conditions"]
    chance = [f"{100 * b['chance']:.1f}" if b["chance"] else "" for b in benchmarks.values()]
    parts = [
        "# Public benchmarks",
        _facts(results),
        "\n".join(f"- {kind}: {KINDS[kind]}" for kind in kinds),
        table(
            ["condition", *(titles[name] for name in benchmarks), "average"],
            [
                *(
                    [
                        kind,
                        *(
                            _value(b["conditions"].get(kind), b["chance"])
                            for b in benchmarks.values()
                        ),
                        f"{100 * average[kind]:.1f}" if kind in average else "",
                    ]
                    for kind in kinds
                ),
                ["*guessing*", *chance, ""],
                ["*rows*", *(str(b["rows"]) for b in benchmarks.values()), ""],
            ],
        ),
        "Percent ± standard error. Kinds with several descriptions: the mean over them. †: within "
        "two standard errors of guessing or below it, which says nothing about the task.",
    ]
    spread = _spread(benchmarks, titles)
    if spread:
        parts += ["## Several descriptions", table(["condition", "benchmark", "each, %"], spread)]
    differences = _differences(results, titles)
    if differences:
        parts += [
            "## Paired differences",
            "Points, with 95% bootstrap intervals over the questions of each benchmark "
            f"({results['resamples']:,} resamples). Bold: the interval is clear of zero.",
            table(["difference", "benchmark", "points"], differences),
        ]
    parts += [
        "## Sets",
        table(["benchmark", "data", "rows", "figure", "prompts cut"], _sets(results)),
    ]
    return "\n\n".join(parts) + "\n"


def render_with_paper(results: Mapping[str, Any], *, table_id: str = "table2") -> str:
    """Give results beside a table of the paper as Markdown.

    Raises ConfigError for an unknown table.
    """
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    ours: dict[str, dict[str, float]] = {}
    sets = {}
    for name, entry in results["benchmarks"].items():
        sets[name] = OurSet(f"{entry['hub']}, {entry['sets']}", entry["rows"], known[name].differs)
        for kind, condition in entry["conditions"].items():
            ours.setdefault(kind, {})[name] = 100 * condition["value"]
    settings = results["settings"]
    remarks = [_facts(results)]
    if settings["rows"] == "local":
        remarks.append("Rows are those of local files, not the hub's.")
    base = str(settings["provenance"].get("base", "another base"))
    return compare_with_paper(ours, sets, base=base, table_id=table_id, remarks=remarks)


def _facts(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    form = {
        "chat": "the base's chat template around lm-eval's question",
        "plain": "lm-eval's plain text",
    }[settings["prompt_form"]]
    shots = "each task's own number" if settings["shots"] is None else str(settings["shots"])
    limit = "all rows" if settings["limit"] is None else f"the first {settings['limit']} rows"
    rows = {"hub": "from the hub", "local": "from local files"}[settings["rows"]]
    unverified = "" if results["status"] == "verified" else f" ({UNVERIFIED})"
    return (
        f"lm-eval {settings['lm_eval']}, backend {settings['backend']}{unverified}. Prompts: {form}; "
        f"examples in it: {shots}. {limit.capitalize()} of each task, {rows}."
    )


def _value(condition: Mapping[str, Any] | None, chance: float) -> str:
    if condition is None:
        return ""
    value, error = condition["value"], condition["stderr"]
    if error is None:
        return f"{100 * value:.1f}"
    mark = "†" if chance and value <= chance + 2 * error else ""
    return f"{100 * value:.1f} ± {100 * error:.1f}{mark}"


def _spread(benchmarks: Mapping[str, Any], titles: Mapping[str, str]) -> list[list[str]]:
    return [
        [kind, titles[name], ", ".join(f"{100 * v:.1f}" for v in condition["parts"].values())]
        for name, benchmark in benchmarks.items()
        for kind, condition in benchmark["conditions"].items()
        if len(condition["parts"]) > 1
    ]


def _differences(results: Mapping[str, Any], titles: Mapping[str, str]) -> list[list[str]]:
    lines = [
        [pair, titles[name], _points(difference)]
        for name, benchmark in results["benchmarks"].items()
        for pair, difference in benchmark["differences"].items()
    ]
    if len(results["benchmarks"]) > 1:
        average = results["average"]["differences"]
        lines += [[pair, "average", _points(difference)] for pair, difference in average.items()]
    return sorted(lines, key=lambda line: line[0])


def _points(difference: Mapping[str, Any]) -> str:
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    if low is None:
        return f"{100 * mean:+.1f}"
    text = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"**{text}**" if difference["clear_of_zero"] else text


def _sets(results: Mapping[str, Any]) -> list[list[str]]:
    lines = []
    titles = {b.name: b.title for b in BENCHMARKS}
    for name, b in results["benchmarks"].items():
        cut = ", ".join(f"{kind} {c['cut']}" for kind, c in b["conditions"].items() if c["cut"])
        figure = b["metric"].removesuffix(",none")
        lines.append([titles[name], f"{b['hub']}: {b['sets']}", str(b["rows"]), figure, cut])
    return lines


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
