"""Known changes between two evaluations are found, with their sign, and paired by row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import pytest

from made_up_samples import GROUPS, SETTINGS, draw_conditions, write_run
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.compare import compare_reports
from text_to_lora.evaluation.report import make_report
from text_to_lora.evaluation.samples import Sample, read_evaluation
from text_to_lora.evaluation.tables import render_comparison
from text_to_lora.files import read_json, write_json

Conditions = Mapping[str, Sequence[Sample]]
RESAMPLES = 300
KINDS = ("base", "matched", "paraphrase.2", "shuffled.1", "shuffled.2", "oracle")


def write(folder: Path, conditions: Conditions, **options: Any) -> Path:
    """An evaluation and its report, without the plots."""
    write_run(folder, conditions, **options)
    write_json(folder / "report.json", make_report(read_evaluation(folder), resamples=RESAMPLES))
    return folder


def change(conditions: Conditions, of: Callable[[Sample], Sample | None]) -> Conditions:
    """The conditions with other samples; None takes one away."""
    return {
        name: [new for sample in samples if (new := of(replace(sample, condition=name)))]
        for name, samples in conditions.items()
    }


def worse(sample: Sample) -> Sample:
    """Matched by 0.3 nats in every row, by 2 more in t4."""
    if sample.condition != "matched":
        return sample
    return replace(sample, nll=sample.nll + 0.3 + 2 * (sample.task == "t4"))


def compare(a: Path, b: Path) -> dict[str, Any]:
    return compare_reports(a, b, resamples=RESAMPLES)


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    every = draw_conditions()
    return {name: every[name] for name in KINDS}


@pytest.fixture(scope="module")
def a(conditions: Conditions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("a") / "run", conditions)


@pytest.fixture(scope="module")
def b(conditions: Conditions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("b") / "run", change(conditions, worse))


def test_a_known_shift_is_found_with_its_sign_in_what_it_concerns_alone(a: Path, b: Path) -> None:
    comparison = compare(a, b)
    assert (comparison["paired_by"], comparison["tasks"], comparison["groups"]) == ("row", 6, 5)
    shift = 0.3 + 2 / 5  # t4 is one of five groups
    for name, columns in (("matched", "conditions"), ("matched - shuffled", "differences")):
        moved = comparison[columns][name]["nll"]
        assert moved["mean"] == pytest.approx(shift)
        assert moved["b"] - moved["a"] == pytest.approx(shift)
        assert moved["clear_of_zero"]
        assert (moved["tasks"], moved["tasks_better"]) == (6, 0)
    assert comparison["differences"]["paraphrase.2 - matched"]["nll"]["mean"] < 0
    for same in ("base", "shuffled", "oracle"):
        assert (
            comparison["conditions"][same]["nll"]["tasks_equal"]
            == comparison["conditions"][same]["nll"]["tasks"]
        )
    assert comparison["conditions"]["matched"]["score"]["mean"] == 0
    back = compare(b, a)["conditions"]["matched"]["nll"]
    assert back["mean"] == pytest.approx(-shift)
    assert back["tasks_better"] == 6


def test_intervals_are_of_paired_rows(a: Path, tmp_path: Path, conditions: Conditions) -> None:
    rng = numpy.random.default_rng(7)
    noisy = change(
        conditions,
        lambda s: replace(s, nll=s.nll + rng.normal()) if s.condition == "matched" else s,
    )
    b = write(tmp_path / "b", noisy)
    rows: dict[str, dict[str, list[float]]] = {}
    for old, new in zip(conditions["matched"], noisy["matched"], strict=True):
        rows.setdefault(GROUPS[old.task], {}).setdefault(old.task, []).append(new.nll - old.nll)
    points = [fmean(map(fmean, rows[group].values())) for group in sorted(rows)]
    picks = numpy.random.default_rng(0).integers(0, 5, size=(RESAMPLES, 5)).tolist()
    means = [fmean(points[i] for i in pick) for pick in picks]
    comparison = compare(a, b)["conditions"]["matched"]["nll"]
    assert comparison["mean"] == pytest.approx(fmean(points))
    low, high = numpy.percentile(means, [2.5, 97.5])
    assert (comparison["low"], comparison["high"]) == pytest.approx((low, high))


def test_reports_alone_are_paired_by_task_to_the_same_means(
    a: Path, b: Path, tmp_path: Path
) -> None:
    for name, folder in (("a.json", a), ("b.json", b)):
        shutil.copy(folder / "report.json", tmp_path / name)
    by_row, by_task = compare(a, b), compare(tmp_path / "a.json", tmp_path / "b.json")
    assert (by_task["paired_by"], by_task["notes"]) == ("task", [])
    for columns in ("conditions", "differences"):
        assert by_task[columns].keys() == by_row[columns].keys()
        for name, measures in by_row[columns].items():
            for measure, expected in measures.items():
                for part in ("a", "b", "mean", "low", "high"):
                    value = by_task[columns][name][measure][part]
                    assert value == pytest.approx(expected[part], abs=1e-12), (name, measure, part)
    assert by_task["largest"]["nll"]["matched"][0]["low"] is None
    mixed = compare(a, tmp_path / "b.json")
    assert mixed["paired_by"] == "task"
    assert mixed["notes"] == ["samples lie beside A alone, so tasks are paired"]


def test_the_task_that_changed_most_comes_first(a: Path, b: Path) -> None:
    comparison = compare(a, b)
    for name in ("matched", "matched - shuffled"):
        first, *others = comparison["largest"]["nll"][name]
        assert (first["task"], first["mean"]) == ("t4", pytest.approx(2.3))
        assert [other["mean"] for other in others] == pytest.approx([0.3] * 5)
        assert (first["low"], first["high"]) == pytest.approx((2.3, 2.3))
        assert comparison["per_task"]["t4"][name]["nll"]["change"] == pytest.approx(2.3)
    assert comparison["largest"]["score"] == {}
    json.dumps(comparison, allow_nan=False)
    text = render_comparison(comparison)
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith("| t4 | ")
        and "+2.3" in line
        and line in text.split("NLL, matched:")[1].split("NLL, matched - ")[0]
    )
    assert line.endswith("| +2.300 [+2.300, +2.300] |")
    assert "Score is the same everywhere." in text
    assert "NLL is the same in every task: base, paraphrase.2, shuffled, oracle." in text


def test_largest_changes_are_of_another_condition_where_matched_is_the_same(
    a: Path, tmp_path: Path, conditions: Conditions
) -> None:
    def better_oracle(s: Sample) -> Sample:
        return replace(s, nll=s.nll - 1) if s.condition == "oracle" and s.task == "t3" else s

    comparison = compare(a, write(tmp_path / "b", change(conditions, better_oracle)))
    (change_of_t3,) = comparison["largest"]["nll"]["oracle"]
    assert (change_of_t3["task"], change_of_t3["mean"]) == ("t3", pytest.approx(-1))


def test_rows_of_other_content_are_left_out_and_said(
    a: Path, tmp_path: Path, conditions: Conditions
) -> None:
    def other(s: Sample) -> Sample | None:
        if s.task == "t1":  # of other content in every row
            return replace(s, input="other", nll=99.0)
        if s.task == "t2":
            return None
        if (s.task, s.idx) == ("t3", 5):
            return replace(s, outputs=("y", "other"), nll=99.0)
        return replace(s, task="t7") if s.task == "t6" else s

    b = write(tmp_path / "b", change(conditions, other))
    comparison = compare(a, b)
    assert (comparison["only_in_a"], comparison["only_in_b"]) == (["t2", "t6"], ["t7"])
    assert comparison["other_rows"] == ["t1"]
    assert comparison["tasks"] == 3
    matched = comparison["conditions"]["matched"]["nll"]
    assert (matched["mean"], matched["rows"]) == (0.0, 8)
    assert comparison["notes"] == [
        "2 tasks in A only: t2, t6",
        "1 tasks in B only: t7",
        "1 tasks have other rows and are left out: t1",
        "1 of A's 18 rows are left out: the other side does not have them, or with other content",
        "1 of B's 15 rows are left out: the other side does not have them, or with other content",
    ]
    for name, folder in (("a.json", a), ("b.json", b)):
        shutil.copy(folder / "report.json", tmp_path / name)
    alone = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert alone["other_rows"] == ["t1", "t3"]  # a task is whole or not at all
    assert alone["tasks"] == 2
    assert "- 2 tasks in A only: t2, t6" in render_comparison(alone)


def test_other_settings_conditions_and_descriptions_are_said(
    tmp_path: Path, conditions: Conditions
) -> None:
    fewer = {name: samples for name, samples in conditions.items() if name != "oracle"}
    changed = change(
        fewer,
        lambda s: replace(s, adapter_text="x") if s.condition == "matched" and s.idx == 5 else s,
    )
    a = write(tmp_path / "a", conditions, about={"oracle": {}, "base": {"top_k": 3}})
    other = {
        "base": {"config": "y"},
        "seed": 1,
        "rows_per_task": 3,
        "provenance": {"hypernet": "k"},
    }
    b = write(tmp_path / "b", changed, settings=other, about={"base": {"top_k": 4}})
    assert compare(a, b)["notes"] == [
        "conditions in A only: oracle",
        "another base model",
        "another base.top_k: 3 in A, 4 in B",
        "another provenance.hypernet: h in A, k in B",
        "another seed: 0 in A, 1 in B",
        "matched: 6 of 18 rows have another description",
    ]


def test_likelihoods_in_another_unit_are_not_compared(
    a: Path, tmp_path: Path, conditions: Conditions
) -> None:
    longer = change(conditions, lambda s: replace(s, tokens=3))
    b = write(tmp_path / "b", longer, settings={**SETTINGS, "base": {"config": "y"}})
    for name, folder in (("a.json", a), ("b.json", b)):
        shutil.copy(folder / "report.json", tmp_path / name)
    for comparison in (compare(a, b), compare(tmp_path / "a.json", tmp_path / "b.json")):
        assert "nll" not in comparison["conditions"]["matched"]
        assert comparison["conditions"]["matched"]["score"]["mean"] == 0
        assert comparison["notes"][0] == "another base model"
        assert "another tokenizer" in comparison["notes"][1]
    silent = change(longer, lambda s: replace(s, score=None, in_labels=None))
    with pytest.raises(ConfigError, match="no measure can be compared"):
        compare(a, write(tmp_path / "c", silent))


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda s: replace(s, task=f"x{s.task}"), "A has the tasks t1, t2.*B has xt1.*in common"),
        (lambda s: replace(s, input="other"), "no task has the same rows in A and B.*--seed"),
    ],
)
def test_evaluations_of_other_things_are_refused(
    a: Path, tmp_path: Path, conditions: Conditions, of: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(a, write(tmp_path / "b", change(conditions, of)))


def test_reports_without_a_common_condition_are_refused(
    a: Path, tmp_path: Path, conditions: Conditions
) -> None:
    b = write(tmp_path / "b", {"junk": conditions["base"]})
    with pytest.raises(ConfigError, match=r"A has the conditions base, .*B has junk; compare"):
        compare(a, b)


def test_a_report_that_is_not_of_the_samples_beside_it_is_refused(
    a: Path, tmp_path: Path, conditions: Conditions
) -> None:
    b = write(tmp_path / "b", conditions)
    report = read_json(b / "report.json")
    report["tasks"]["t1"]["conditions"]["base"]["nll"] += 1e-3
    write_json(b / "report.json", report)
    with pytest.raises(ConfigError, match=r"not the report of the samples beside.*t2l eval report"):
        compare(a, b)
