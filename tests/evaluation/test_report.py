"""The report's figures against sums written out apart, from made-up samples."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy
import pytest

from made_up_samples import GROUPS, draw, draw_conditions, evaluation_of, make_sample, write_run
from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.conditions import KINDS
from text_to_lora.evaluation.plots import move_apart
from text_to_lora.evaluation.report import build_report, make_report
from text_to_lora.evaluation.samples import Sample, sample_path
from text_to_lora.evaluation.tables import render_report
from text_to_lora.files import write_json

Conditions = dict[str, list[Sample]]
Rows = dict[tuple[str, int], float]

RESAMPLES = 400
TO_AND_FRO = {"a": 1.0, "b": -1.0, "c": 0.5, "d": -0.5, "e": 0.1}
PLOTS = ("conditions.png", "differences.png", "slopes.png", "tasks.png")


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    return draw_conditions()


@pytest.fixture(scope="module")
def folder(conditions: Conditions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation and its report, both written."""
    folder = write_run(tmp_path_factory.mktemp("evaluation"), conditions)
    build_report(folder, resamples=RESAMPLES)
    return folder


@pytest.fixture(scope="module")
def report(conditions: Conditions) -> dict[str, Any]:
    return report_of(conditions)


def report_of(conditions: Conditions) -> dict[str, Any]:
    return make_report(evaluation_of(conditions), resamples=RESAMPLES)


def moved(samples: Iterable[Sample], by: dict[str, float]) -> list[Sample]:
    """The same rows with another likelihood in each group."""
    return [replace(sample, nll=sample.nll + by[sample.group]) for sample in samples]


def by_row(samples: Iterable[Sample], measure: str) -> Rows:
    """Value of each row, the mean where there are several of it."""
    by_key: dict[tuple[str, int], list[float]] = {}
    for s in samples:
        by_key.setdefault((s.task, s.idx), []).append(float(getattr(s, measure)))
    return {key: fmean(values) for key, values in by_key.items()}


def group_points(values: Rows) -> list[float]:
    """Rows inside tasks, tasks inside groups."""
    groups: dict[str, list[float]] = {}
    for task in sorted({task for task, _ in values}):
        rows = [value for (name, _), value in values.items() if name == task]
        groups.setdefault(GROUPS[task], []).append(fmean(rows))
    return [fmean(groups[group]) for group in sorted(groups)]


def mean_over_groups(values: Rows) -> float:
    return fmean(group_points(values))


def bootstrap(points: list[float]) -> tuple[float, float]:
    """Percentile interval of the mean of group means, drawn one resample at a time."""
    rng = numpy.random.default_rng(0)
    picks = rng.integers(0, len(points), size=(RESAMPLES, len(points)))
    means = sorted(fmean(points[i] for i in row) for row in picks.tolist())
    low, high = numpy.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def of_kind(conditions: Conditions, kind: str) -> list[Sample]:
    names = [name for name in conditions if name == kind or name.startswith(f"{kind}.")]
    return [sample for name in names for sample in conditions[name]]


def minus(first: Rows, second: Rows) -> Rows:
    return {key: first[key] - second[key] for key in first if key in second}


@pytest.mark.parametrize("measure", ["nll", "score", "in_labels"])
def test_means_are_over_rows_tasks_and_groups(
    conditions: Conditions, report: dict[str, Any], measure: str
) -> None:
    for name in ("base", "matched", "paraphrase.1", "oracle"):
        values = by_row(conditions[name], measure)
        figures = report["conditions"][name][measure]
        assert figures["mean"] == pytest.approx(mean_over_groups(values))
        low, high = bootstrap(group_points(values))
        assert (figures["low"], figures["high"]) == (pytest.approx(low), pytest.approx(high))
        assert figures["rows"] == len(values)
    base = report["conditions"]["base"]
    assert (base["tasks"], base["groups"], base["rows"]) == (6, 5, 18)
    assert report["conditions"]["oracle"]["tasks"] == 5


@pytest.mark.parametrize("measure", ["nll", "score"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("matched", kind) for kind in KINDS if kind not in ("matched", "paraphrase")]
    + [(kind, "base") for kind in KINDS if kind not in ("base", "paraphrase")]
    + [("paraphrase.2", "matched"), ("paraphrase.2", "shuffled")],
)
def test_every_paired_difference_equals_a_naive_one(
    conditions: Conditions, report: dict[str, Any], first: str, second: str, measure: str
) -> None:
    differences = minus(
        by_row(of_kind(conditions, first), measure), by_row(of_kind(conditions, second), measure)
    )
    figures = report["differences"][f"{first} - {second}"][measure]
    assert figures["mean"] == pytest.approx(mean_over_groups(differences))
    low, high = bootstrap(group_points(differences))
    assert (figures["low"], figures["high"]) == (pytest.approx(low), pytest.approx(high))
    assert figures["clear_of_zero"] == (low * high > 0)
    better = -1 if measure == "nll" else 1
    changes = [
        fmean(value for key, value in differences.items() if key[0] == task)
        for task in {task for task, _ in differences}
    ]
    assert figures["tasks"] == len(changes)
    assert figures["rows"] == len(differences)
    assert figures["tasks_better"] == sum(better * change > 1e-6 for change in changes)
    assert figures["tasks_equal"] == sum(abs(change) < 1e-6 for change in changes)


def matched_minus_base(matched: list[Sample], base: list[Sample]) -> dict[str, Any]:
    report = report_of({"base": base, "matched": matched})
    figures: dict[str, Any] = report["differences"]["matched - base"]["nll"]
    return figures


def test_a_shift_of_every_group_is_clear_of_zero_and_one_to_and_fro_is_not() -> None:
    noise = draw(1, 0.0)
    figures = matched_minus_base(moved(noise, dict.fromkeys("abcde", -0.5)), noise)
    assert (figures["mean"], figures["low"], figures["high"]) == (pytest.approx(-0.5),) * 3
    assert figures["clear_of_zero"]
    assert figures["tasks_better"] == 6
    assert not matched_minus_base(moved(noise, TO_AND_FRO), noise)["clear_of_zero"]


def test_sums_that_are_rounded_apart_are_equal() -> None:
    thirds = [make_sample("t1", idx, 1 / 3) for idx in (5, 6, 7)]
    others = [replace(sample, nll=1 - 2 / 3) for sample in thirds]
    assert thirds[0].nll != others[0].nll
    figures = matched_minus_base(thirds, others)
    assert (figures["tasks_better"], figures["tasks_equal"]) == (0, 1)


@pytest.mark.parametrize("goal", ["in_prompt", "oracle"])
@pytest.mark.parametrize("name", ["matched", "paraphrase.2", "junk", "multitask"])
def test_share_of_a_gap_is_a_ratio_of_means_over_common_tasks(
    conditions: Conditions, report: dict[str, Any], goal: str, name: str
) -> None:
    base, end, here = (by_row(conditions[of], "nll") for of in ("base", goal, name))
    common = set(base) & set(end) & set(here)
    gap = group_points({key: end[key] - base[key] for key in common})
    closed = group_points({key: here[key] - base[key] for key in common})
    figures = report["gap_closed"][goal][name]["nll"]
    assert figures["gap"]["mean"] == pytest.approx(fmean(gap))
    assert figures["share"]["mean"] == pytest.approx(fmean(closed) / fmean(gap))
    assert figures["tasks"] == len({task for task, _ in common})
    picks = numpy.random.default_rng(0).integers(0, len(gap), size=(RESAMPLES, len(gap)))
    shares = [fmean(closed[i] for i in row) / fmean(gap[i] for i in row) for row in picks.tolist()]
    low, high = numpy.percentile(shares, [2.5, 97.5])
    assert (figures["share"]["low"], figures["share"]["high"]) == pytest.approx((low, high))


def test_share_of_a_gap_that_is_not_clear_has_no_interval() -> None:
    base = draw(1, 5.0)
    shifts = {group: by - 0.1 for group, by in TO_AND_FRO.items()}
    conditions = {
        "base": base,
        "in_prompt": moved(base, shifts),
        "matched": moved(base, dict.fromkeys("abcde", -1.0)),
    }
    figures = report_of(conditions)["gap_closed"]["in_prompt"]["matched"]["nll"]
    assert figures["share"]["mean"] == pytest.approx(-1.0 / fmean(shifts.values()))
    assert (figures["share"]["low"], figures["share"]["high"]) == (None, None)
    assert not figures["gap_clear"]


def test_a_goal_that_is_worse_than_base_has_no_share() -> None:
    base = draw(1, 5.0)
    conditions = {
        "base": base,
        "oracle": moved(base, dict.fromkeys("abcde", 1.0)),
        "matched": moved(base, dict.fromkeys("abcde", 0.5)),
    }
    report = report_of(conditions)
    figures = report["gap_closed"]["oracle"]["matched"]["nll"]
    assert figures["share"] == {"mean": None, "low": None, "high": None}
    assert figures["gap"]["mean"] == pytest.approx(1.0)
    assert "| matched | – | 1.000 [1.000, 1.000] | 6 |" in render_report(report)


@pytest.mark.parametrize("measure", ["nll", "score"])
def test_spread_between_descriptions_is_over_tasks_that_have_all_of_them(
    conditions: Conditions, report: dict[str, Any], measure: str
) -> None:
    names = ["matched", "paraphrase.1", "paraphrase.2"]
    tasks = ["t1", "t3", "t5", "t6"]  # t2 and t4 lack a paraphrase
    values = [
        {key: value for key, value in by_row(conditions[name], measure).items() if key[0] in tasks}
        for name in names
    ]
    figures = report["descriptions"]
    assert (figures["conditions"], figures["tasks"]) == (names, 4)
    of = figures["measures"][measure]
    means = [mean_over_groups(rows) for rows in values]
    assert list(of["means"].values()) == pytest.approx(means)
    assert of["sd"] == pytest.approx(numpy.std(means, ddof=1))
    assert of["range"] == pytest.approx([min(means), max(means)])
    by_task = numpy.array(
        [[fmean(v for k, v in rows.items() if k[0] == task) for task in tasks] for rows in values]
    )  # descriptions x tasks, each of another group
    assert of["within_tasks"] == pytest.approx(by_task.std(axis=0, ddof=1).mean())
    low, high = bootstrap(list(by_task.mean(axis=0)))
    assert (of["mean"], of["low"], of["high"]) == pytest.approx((by_task.mean(), low, high))
    shuffled = by_row(of_kind(conditions, "shuffled"), measure)
    mean = {key: fmean(rows[key] for rows in values) for key in values[0]}
    difference = figures["differences"]["descriptions - shuffled"][measure]
    assert difference["mean"] == pytest.approx(mean_over_groups(minus(mean, shuffled)))
    assert difference["tasks"] == 4


def test_conditions_are_shown_on_the_tasks_that_all_have(
    conditions: Conditions, report: dict[str, Any]
) -> None:
    common = report["common_tasks"]
    assert common["tasks"] == 3  # without t2, t4 and t5
    values = {k: v for k, v in by_row(conditions["junk"], "nll").items() if k[0] in "t1 t3 t6"}
    assert common["conditions"]["junk"]["nll"]["mean"] == pytest.approx(mean_over_groups(values))
    assert "over the 3 tasks that all have" in render_report(report)
    whole = {name: conditions[name] for name in ("base", "matched")}
    assert report_of(whole)["common_tasks"] is None


def test_each_measure_covers_the_tasks_that_have_it() -> None:
    labels: dict[str, Any] = {"metric": "classification", "outputs": ("yes",)}
    right = labels | {"answer": "Yes.", "score": 1.0, "in_labels": True, "label_score": 0.0}
    wrong = labels | {"answer": "maybe", "score": 0.0, "in_labels": False, "label_score": 1.0}
    rows = [
        make_sample("labels", 5, 1.0, **right),
        make_sample("labels", 6, 1.0, **wrong),
        make_sample("words", 5, 1.0, metric="rougeL", score=0.5, answer="b", outputs=("a", "B")),
        make_sample("words", 6, 1.0, metric="rougeL", score=0.25, answer="c", outputs=("a", "b")),
        make_sample(
            "sums", 5, 1.0, metric="final_number", score=1.0, answer="it is 3", outputs=("3",)
        ),
        make_sample("code", 5, 1.0, metric="code_execution", score=None, answer=""),
        make_sample("silent", 5, 2.0, score=None, answer=""),
    ]
    report = report_of({"base": rows})
    expected = {
        "nll": (5, 7, 6 / 5),  # every task is a group
        "score": (3, 5, fmean([0.5, 0.375, 1])),
        "label_score": (1, 2, 0.5),
        "label_generated": (1, 2, 0.5),
        "in_labels": (1, 2, 0.5),
        "exact_match": (3, 5, fmean([0.5, 0.5, 0])),
        "rouge_l": (1, 2, 0.375),
        "final_number": (1, 1, 1.0),
    }
    assert list(report["measures"]) == list(expected)
    for name, (tasks, count, mean) in expected.items():
        figures, covered = report["conditions"]["base"][name], report["measures"][name]
        assert figures["mean"] == pytest.approx(mean), name
        assert (figures["tasks"], figures["rows"]) == (tasks, count), name
        assert (covered["tasks"], covered["rows"]) == (tasks, count), name
    assert report["tasks"]["words"]["conditions"]["base"]["in_labels"] is None
    text = render_report(report)
    assert "| ROUGE-L | 1 | 2 | tasks of this metric alone" in text
    assert "| exact match | 3 | 5 | every answer" in text


def test_cut_prompts_and_left_out_examples_are_counted() -> None:
    rows = draw(1, 2.0)
    cut = [replace(row, cut=place < 4) for place, row in enumerate(rows)]
    evaluation = evaluation_of({"base": rows, "icl": cut})
    evaluation.facts["icl"]["shots_left_out"] = 7  # type: ignore[index]
    report = make_report(evaluation, resamples=RESAMPLES)
    icl = report["conditions"]["icl"]
    assert (icl["prompts"], icl["prompts_cut"], icl["shots_left_out"]) == (18, 4, 7)
    text = render_report(report)
    assert "| icl | 6 | 18 | 4 (22%) |" in text
    assert "icl: 7 examples did not fit the prompts" in text
    assert "base: " not in text.split("## Measures")[0].split("## Conditions")[1]


def test_rows_that_are_not_finite_are_left_out_counted_and_warned_of(
    conditions: Conditions, report: dict[str, Any]
) -> None:
    broken = dict(conditions)
    extra = [make_sample("t1", 8, nll, group="a", score=None) for nll in (float("nan"), 1.0)]
    broken["matched"] = [*conditions["matched"], extra[0]]
    for name in ("shuffled.1", "shuffled.2", "shuffled.3", "base"):
        broken[name] = [*conditions[name], extra[1]]
    with pytest.warns(T2LWarning, match="'matched' has 1 rows whose likelihood is not a finite"):
        figures = report_of(broken)
    assert figures["conditions"]["matched"]["rows_not_finite"] == 1
    difference = figures["differences"]["matched - shuffled"]["nll"]
    assert difference["rows_left_out"] == 1
    assert difference["mean"] == report["differences"]["matched - shuffled"]["nll"]["mean"]


def test_equal_samples_give_equal_files_in_whatever_order_their_rows_are(
    conditions: Conditions, folder: Path, tmp_path: Path
) -> None:
    mixed = {}
    for name in reversed(conditions):
        mixed[name] = list(conditions[name])
        Random(name).shuffle(mixed[name])
    build_report(write_run(tmp_path, mixed), resamples=RESAMPLES)
    for name in ("report.json", "report.md", *PLOTS):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_png_images_that_can_be_read(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert min(width, height) > 400


def test_a_base_alone_has_no_plots_of_differences(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path, {"base": draw(1, 2.0)}), resamples=RESAMPLES)
    assert (report["differences"], report["gap_closed"]) == ({}, {})
    assert report["descriptions"] is None
    assert {path.name for path in tmp_path.glob("*.png")} == {"conditions.png"}


def test_names_beside_slopes_keep_their_order_and_do_not_overlap() -> None:
    places = [0.5, 0.52, 3.0, 0.51, 2.97, 9.0]
    moved_places = move_apart(places, 0.2)
    assert numpy.argsort(moved_places).tolist() == numpy.argsort(places).tolist()
    assert numpy.diff(sorted(moved_places)).min() >= 0.2 - 1e-9
    assert moved_places[5] == 9.0
    assert fmean(moved_places) == pytest.approx(fmean(places))


def test_tables_show_the_figures_and_bold_what_is_clear_of_zero(
    folder: Path, report: dict[str, Any]
) -> None:
    text = (folder / "report.md").read_text()
    assert "6 tasks of 5 source groups" in text
    section = text.split("## Paired differences")[1].split("The same in the other measures")[0]
    for name, difference in report["differences"].items():
        (line,) = (line for line in section.splitlines() if line.startswith(f"| {name} |"))
        nll = difference["nll"]
        shown = f"{nll['mean']:.3f} [{nll['low']:.3f}, {nll['high']:.3f}]"
        assert (f"| **{shown}** |" if nll["clear_of_zero"] else f"| {shown} |") in line
        assert line.count("**") == 2 * sum(difference[m]["clear_of_zero"] for m in ("nll", "score"))
    share = report["gap_closed"]["oracle"]["matched"]["nll"]["share"]
    assert f"| matched | {share['mean']:.3f} [{share['low']:.3f}, {share['high']:.3f}] |" in text
    assert "| t6 | e |" in text


def test_conditions_come_in_one_order(folder: Path, report: dict[str, Any]) -> None:
    place = KINDS.index("paraphrase")
    order = [*KINDS[:place], "paraphrase.1", "paraphrase.2", *KINDS[place + 1 :]]
    assert list(report["conditions"]) == order
    text = (folder / "report.md").read_text().split("### On the tasks")[0]
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines[2:] == [f"| {name}" for name in order]


def test_what_conditions_are_made_of_is_shown(tmp_path: Path) -> None:
    about = {"mean": {"library": "0123456789abcdef" * 4, "adapters": 256}}
    conditions = {"base": draw(1, 2.0), "mean": draw(2, 2.0)}
    report = build_report(write_run(tmp_path, conditions, about=about), resamples=RESAMPLES)
    assert report["conditions"]["mean"]["about"] == about["mean"]
    text = render_report(report)
    assert "adapters (adapters: 256, library: 0123456789abcd…cdef)" in text
    assert "provenance.hypernet: h, rows_per_task: 3, seed: 0." in text


def test_conditions_without_a_common_row_have_no_difference() -> None:
    conditions = {"base": [make_sample("t1", 5, 1.0)], "matched": [make_sample("t3", 5, 1.0)]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = report_of({**conditions, "oracle": [make_sample("t3", 5, 2.0)]})
    assert list(report["differences"]) == ["matched - oracle"]
    assert report["gap_closed"] == {}


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, {"base": [make_sample("t1", 5, 1.0)]})
    sample_path(folder, "base").unlink()
    with pytest.raises(ConfigError, match="holds no samples; evaluate first"):
        build_report(folder)
    write_json(folder / "run.json", {"format": "other"})
    with pytest.raises(ConfigError, match=r"run\.json"):
        build_report(folder)
