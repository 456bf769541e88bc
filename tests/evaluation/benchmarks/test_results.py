from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy
import pytest

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.benchmarks.catalogue import BENCHMARKS
from text_to_lora.evaluation.benchmarks.questions import Question, question_path, write_questions
from text_to_lora.evaluation.benchmarks.results import (
    FORMAT,
    UNVERIFIED,
    VERSION,
    bootstrap_mean_of_means,
    build_results,
    render_with_paper,
)

LEGAL = next(b for b in BENCHMARKS if b.name == "legalbench")


def save(
    folder: Path, values: dict[str, dict[str, list[float]]], *, verified: bool = True
) -> dict[str, Any]:
    """Write the folder of a run with these values of questions and build its results."""
    folder.mkdir()
    tasks: dict[str, Any] = {}
    for task, conditions in values.items():
        entries = {}
        for name, several in conditions.items():
            kind = name.partition(".")[0]
            entries[name] = {"kind": kind, "adapter_text": "", "system": ""}
            questions = [Question(i, "p", "t", "a", v, "{}", i == 0) for i, v in enumerate(several)]
            write_questions(question_path(folder, task, name), questions, {"seconds": 1.0})
        tasks[task] = {"rows": {}, "conditions": entries}
    settings = {
        "backend": "hf" if verified else "vllm",
        "verified": verified,
        "lm_eval": "0.0",
        "prompt_form": "chat",
        "shots": None,
        "limit": None,
        "rows": "hub",
        "provenance": {"base": "some base"},
    }
    run = {"format": FORMAT, "version": VERSION, "settings": settings, "tasks": tasks}
    (folder / "run.json").write_text(json.dumps(run))
    return build_results(folder)


def test_a_kind_is_the_mean_over_its_descriptions(tmp_path: Path) -> None:
    one, two = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    results = save(
        tmp_path / "r",
        {"boolq": {"base": [0.0, 0.0, 0.0, 1.0], "matched.1": one, "matched.2": two}},
    )
    matched = results["benchmarks"]["boolq"]["conditions"]["matched"]
    rows = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    assert matched["value"] == pytest.approx(statistics.mean(rows))
    assert matched["stderr"] == pytest.approx(statistics.stdev(rows) / 2)
    assert matched["parts"] == {"matched.1": 0.75, "matched.2": 0.25}
    assert matched["cut"] == 2
    difference = results["benchmarks"]["boolq"]["differences"]["matched - base"]
    assert difference["mean"] == pytest.approx(0.25)


def test_standard_errors_are_those_of_lm_eval(tmp_path: Path) -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    results = save(tmp_path / "r", {"piqa": {"base": values}})
    given = results["benchmarks"]["piqa"]["conditions"]["base"]["stderr"]
    assert given == pytest.approx(metrics.mean_stderr(values))


def test_legalbench_is_the_plain_mean_of_its_tasks_and_waits_for_all(tmp_path: Path) -> None:
    values = {task.name: {"base": [1.0] * (2 + i) + [0.0]} for i, task in enumerate(LEGAL.tasks)}
    results = save(tmp_path / "r", values)
    shares = [(2 + i) / (3 + i) for i in range(len(LEGAL.tasks))]
    legal = results["benchmarks"]["legalbench"]
    assert legal["conditions"]["base"]["value"] == pytest.approx(statistics.mean(shares))
    assert legal["rows"] == sum(3 + i for i in range(len(LEGAL.tasks)))
    values.popitem()
    with pytest.raises(ConfigError, match="holds no questions"):
        save(tmp_path / "part", values)


def test_the_average_is_over_benchmarks_and_over_kinds_that_all_have(tmp_path: Path) -> None:
    results = save(
        tmp_path / "r",
        {"boolq": {"base": [1.0, 0.0], "in_prompt": [1.0, 1.0]}, "piqa": {"base": [1.0] * 4}},
    )
    assert results["average"]["conditions"] == {"base": pytest.approx(0.75)}


def test_intervals_are_those_of_drawing_rows(tmp_path: Path) -> None:
    rng = numpy.random.default_rng(1)
    strata = [rng.integers(-1, 2, 40).astype(float), rng.integers(0, 2, 25) / 3]
    interval = bootstrap_mean_of_means(
        [[strata[0]], [strata[1]]], resamples=20_000, rng=numpy.random.default_rng(2)
    )
    draws = [
        statistics.mean(float(rng.choice(rows, len(rows)).mean()) for rows in strata)
        for _ in range(4000)
    ]
    low, high = numpy.percentile(draws, [2.5, 97.5])
    assert interval.mean == pytest.approx(statistics.mean(float(r.mean()) for r in strata))
    # 4000 draws fix the ends to about a thirtieth of the interval.
    assert interval.low == pytest.approx(low, abs=0.03)
    assert interval.high == pytest.approx(high, abs=0.03)


def test_chance_and_what_is_unverified_are_marked(tmp_path: Path) -> None:
    half = [1.0, 0.0] * 50
    save(tmp_path / "r", {"boolq": {"base": half}, "piqa": {"base": [1.0] * 99 + [0.0]}})
    text = (tmp_path / "r" / "benchmarks.md").read_text()
    assert "| base | 50.0 ± 5.0† | 99.0 ± 1.0 | 74.5 |" in text
    assert "| *guessing* | 50.0 | 50.0 |  |" in text
    assert UNVERIFIED not in text
    results = save(tmp_path / "v", {"boolq": {"base": half}}, verified=False)
    assert results["status"] == UNVERIFIED
    assert UNVERIFIED in (tmp_path / "v" / "benchmarks.md").read_text()


def test_ours_stand_beside_the_papers_with_the_sets(tmp_path: Path) -> None:
    results = save(tmp_path / "r", {"boolq": {"base": [1.0, 0.0]}, "mbpp": {"base": [0.0, 0.0]}})
    text = render_with_paper(results)
    (line,) = (line for line in text.splitlines() if line.startswith("| Base (base) |"))
    assert "50.0 / 71.6" in line and "0.0 / 43.1" in line and "– / 40.9" in line
    assert "| MBPP | 2 | 399 | here google-research-datasets/mbpp" in text
    assert "| HellaSwag | – | 10042 | not measured here |" in text
