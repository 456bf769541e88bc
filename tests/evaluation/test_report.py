"""The report's figures against sums written out apart, from made-up samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import pytest

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.evaluation.report import build_report, compare_conditions
from text_to_lora.evaluation.samples import FORMAT, VERSION, Sample, sample_path, write_samples
from text_to_lora.files import write_json

Make = Callable[..., Sample]
GROUPS = {"t1": "a", "t2": "a", "t3": "b", "t4": "c", "t5": "d", "t6": "e"}


def write_run(folder: Path, conditions: dict[str, list[Sample]]) -> Path:
    """A folder as an evaluation leaves it; names are "kind" or "kind.number"."""
    for name, samples in conditions.items():
        write_samples(sample_path(folder, name), samples, {"seconds": 1.5, "signature": []})
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "version": VERSION,
            "settings": {"seed": 0, "tasks": {}},
            "conditions": {name: {"kind": name.split(".")[0]} for name in conditions},
        },
    )
    return folder


def draw(sample: Make, seed: int, shift: float, **others: Any) -> list[Sample]:
    """Three rows of each task with random values around `shift`."""
    rng = numpy.random.default_rng(seed)
    return [
        sample(
            task,
            idx,
            float(shift + rng.normal()),
            group=group,
            score=float(rng.integers(2)),
            in_labels=bool(rng.integers(2)),
            **others,
        )
        for task, group in GROUPS.items()
        for idx in (5, 6, 7)
    ]


TO_AND_FRO = {"a": 1.0, "b": -1.0, "c": 0.5, "d": -0.5, "e": 0.1}


def moved(sample: Make, samples: list[Sample], by: dict[str, float]) -> list[Sample]:
    """The same rows with another likelihood in each group."""
    return [sample(s.task, s.idx, s.nll + by[s.group], group=s.group) for s in samples]


@pytest.fixture
def conditions(sample: Make) -> dict[str, list[Sample]]:
    shifts = {
        "base": 5.0,
        "in_prompt": 2.0,
        "multitask": 4.0,
        "matched": 3.0,
        "shuffled.1": 5.0,
        "shuffled.2": 5.5,
        "shuffled.3": 6.0,
        "junk": 5.0,
    }
    found = {name: draw(sample, seed, shift) for seed, (name, shift) in enumerate(shifts.items())}
    found["paraphrase.1"] = [s for s in draw(sample, 77, 3.0) if s.task in ("t1", "t3", "t6")]
    return found


def mean_over_groups(values: dict[tuple[str, int], float]) -> float:
    """Rows inside tasks, tasks inside groups, groups alike."""
    groups: dict[str, list[float]] = {}
    for task in {task for task, _ in values}:
        rows = [value for (name, _), value in values.items() if name == task]
        groups.setdefault(GROUPS[task], []).append(fmean(rows))
    return fmean(map(fmean, groups.values()))


def by_row(samples: list[Sample], measure: str) -> dict[tuple[str, int], float]:
    return {(s.task, s.idx): float(getattr(s, measure)) for s in samples}


def bootstrap(points: list[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile interval of the mean of group means, drawn one resample at a time."""
    rng = numpy.random.default_rng(seed)
    picks = rng.integers(0, len(points), size=(resamples, len(points)))
    means = sorted(fmean(points[i] for i in row) for row in picks.tolist())
    low, high = numpy.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("measure", ["nll", "score", "in_labels"])
def test_means_are_over_rows_tasks_and_groups(
    conditions: dict[str, list[Sample]], tmp_path: Path, measure: str
) -> None:
    report = build_report(write_run(tmp_path, conditions))
    for name in ("base", "matched", "paraphrase.1"):
        expected = mean_over_groups(by_row(conditions[name], measure))
        assert report["conditions"][name][measure]["mean"] == pytest.approx(expected)
    assert (report["conditions"]["base"]["groups"], report["conditions"]["base"]["rows"]) == (5, 18)


@pytest.mark.parametrize("measure", ["nll", "score"])
def test_matched_is_compared_with_the_mean_of_three_derangements(
    conditions: dict[str, list[Sample]], tmp_path: Path, measure: str
) -> None:
    report = build_report(write_run(tmp_path, conditions))
    assert "shuffled" in report["conditions"] and "shuffled.1" not in report["conditions"]
    matched = by_row(conditions["matched"], measure)
    shuffled = [by_row(conditions[f"shuffled.{i}"], measure) for i in (1, 2, 3)]
    differences = {key: matched[key] - fmean(s[key] for s in shuffled) for key in matched}
    found = report["differences"]["matched - shuffled"][measure]
    assert found["mean"] == pytest.approx(mean_over_groups(differences))
    points = [
        mean_over_groups({key: d for key, d in differences.items() if GROUPS[key[0]] == group})
        for group in sorted(set(GROUPS.values()))
    ]
    low, high = bootstrap(points)
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["clear_of_zero"] == (low * high > 0)
    better = -1 if measure == "nll" else 1
    wins = [
        better * mean_over_groups({key: d for key, d in differences.items() if key[0] == task}) > 0
        for task in GROUPS
    ]
    assert (found["tasks"], found["tasks_better"]) == (6, sum(wins))


def test_a_shift_of_every_group_is_clear_of_zero_and_one_to_and_fro_is_not(sample: Make) -> None:
    noise = draw(sample, 1, 0.0)
    found = compare_conditions(moved(sample, noise, dict.fromkeys("abcde", -0.5)), noise).difference
    assert (found.mean, found.low, found.high) == (pytest.approx(-0.5),) * 3
    assert found.clear_of_zero
    other = moved(sample, noise, TO_AND_FRO)
    assert not compare_conditions(other, noise).difference.clear_of_zero


def test_share_of_the_gap_is_a_ratio_of_means(
    conditions: dict[str, list[Sample]], tmp_path: Path
) -> None:
    report = build_report(write_run(tmp_path, conditions))
    base, told, matched = (
        by_row(conditions[name], "nll") for name in ("base", "in_prompt", "matched")
    )
    gap = mean_over_groups({key: told[key] - base[key] for key in base})
    closed = mean_over_groups({key: matched[key] - base[key] for key in base})
    found = report["gap_closed"]["nll"]
    assert found["gap"]["mean"] == pytest.approx(gap)
    assert found["share"]["mean"] == pytest.approx(closed / gap)
    assert found["share"]["low"] < closed / gap < found["share"]["high"]


def test_share_of_a_gap_that_is_not_clear_has_no_interval(sample: Make, tmp_path: Path) -> None:
    base = draw(sample, 1, 5.0)
    conditions = {
        "base": base,
        "in_prompt": moved(sample, base, TO_AND_FRO),
        "matched": moved(sample, base, dict.fromkeys("abcde", -1.0)),
    }
    share = build_report(write_run(tmp_path, conditions))["gap_closed"]["nll"]["share"]
    assert (share["low"], share["high"]) == (None, None)


def test_a_paraphrase_is_compared_on_the_tasks_that_have_it(
    conditions: dict[str, list[Sample]], tmp_path: Path
) -> None:
    report = build_report(write_run(tmp_path, conditions))
    found = report["differences"]["paraphrase.1 - matched"]["nll"]
    paraphrase, matched = (by_row(conditions[n], "nll") for n in ("paraphrase.1", "matched"))
    assert found["tasks"] == 3
    assert found["mean"] == pytest.approx(
        mean_over_groups({key: paraphrase[key] - matched[key] for key in paraphrase})
    )
    assert report["conditions"]["paraphrase.1"]["tasks"] == 3


def test_share_inside_the_label_set_is_of_tasks_with_labels(sample: Make, tmp_path: Path) -> None:
    rows = [
        sample("t1", 5, 1.0, in_labels=True),
        sample("t1", 6, 1.0, in_labels=False),
        sample("t3", 5, 1.0, in_labels=None),
    ]
    report = build_report(write_run(tmp_path, {"base": rows}))
    assert report["conditions"]["base"]["in_labels"]["mean"] == 0.5
    assert report["tasks"]["t3"]["conditions"]["base"]["in_labels"] is None


def test_rows_that_are_not_finite_are_left_out_counted_and_warned_of(
    conditions: dict[str, list[Sample]], sample: Make, tmp_path: Path
) -> None:
    good = build_report(write_run(tmp_path / "good", conditions))
    broken = dict(conditions)
    extra = [sample("t1", 8, nll, group="a") for nll in (float("nan"), 1.0)]
    broken["matched"] = [*conditions["matched"], extra[0]]
    for name in ("shuffled.1", "shuffled.2", "shuffled.3", "base"):
        broken[name] = [*conditions[name], extra[1]]
    with pytest.warns(T2LWarning, match="'matched' has 1 rows whose likelihood is not a finite"):
        report = build_report(write_run(tmp_path / "broken", broken))
    assert report["conditions"]["matched"]["rows_not_finite"] == 1
    found = report["differences"]["matched - shuffled"]["nll"]
    assert found["rows_left_out"] == 1
    assert found["mean"] == good["differences"]["matched - shuffled"]["nll"]["mean"]


def test_equal_samples_give_equal_files(
    conditions: dict[str, list[Sample]], tmp_path: Path
) -> None:
    names = ("report.json", "report.md", "conditions.png", "slopes.png")
    folder = write_run(tmp_path, conditions)
    build_report(folder)
    first = [(folder / name).read_bytes() for name in names]
    build_report(folder)
    assert [(folder / name).read_bytes() for name in names] == first


def test_tables_show_the_figures_and_bold_what_is_clear_of_zero(
    conditions: dict[str, list[Sample]], tmp_path: Path
) -> None:
    report = build_report(write_run(tmp_path, conditions))
    text = (tmp_path / "report.md").read_text()
    assert "6 tasks of 5 source groups" in text
    for name, difference in report["differences"].items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
        nll = difference["nll"]
        shown = f"{nll['mean']:.3f} [{nll['low']:.3f}, {nll['high']:.3f}]"
        assert (f"**{shown}**" if nll["clear_of_zero"] else shown) in line
        assert line.count("**") == 2 * sum(d["clear_of_zero"] for d in difference.values())
    assert f"{report['gap_closed']['nll']['share']['mean']:.3f}" in text
    assert "| t6 | e |" in text


def test_conditions_come_in_one_order(conditions: dict[str, list[Sample]], tmp_path: Path) -> None:
    backwards = dict(reversed(conditions.items()))
    assert list(build_report(write_run(tmp_path, backwards))["conditions"]) == [
        "base",
        "in_prompt",
        "multitask",
        "matched",
        "paraphrase.1",
        "shuffled",
        "junk",
    ]


def test_a_folder_without_an_evaluation_is_refused(tmp_path: Path, sample: Make) -> None:
    folder = write_run(tmp_path, {"base": [sample("t1", 5, 1.0)]})
    sample_path(folder, "base").unlink()
    with pytest.raises(ConfigError, match="holds no samples; evaluate first"):
        build_report(folder)
    write_json(folder / "run.json", {"format": "other"})
    with pytest.raises(ConfigError, match=r"run\.json"):
        build_report(folder)


def test_conditions_without_a_common_row_cannot_be_compared(sample: Make) -> None:
    with pytest.raises(ConfigError, match="no task has a value under both conditions"):
        compare_conditions([sample("t1", 5, 1.0)], [sample("t3", 5, 1.0)])
