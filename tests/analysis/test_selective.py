"""Risk by coverage and AUROC against loops and scikit-learn."""

from __future__ import annotations

import numpy
import pytest
from sklearn.metrics import roc_auc_score

from text_to_lora.analysis.selective import Selective, auroc, compare
from text_to_lora.errors import ConfigError

rng = numpy.random.default_rng(0)


def test_risk_is_the_mean_loss_of_the_surest() -> None:
    losses, scores = rng.random(9), rng.random(9)
    coverage, risk = Selective(losses, tuple("abcdefghi")).curve(scores)
    for place in range(9):
        surest = sorted(range(9), key=lambda i: -scores[i])[: place + 1]
        assert coverage[place] == pytest.approx((place + 1) / 9)
        assert risk[place] == pytest.approx(numpy.mean([losses[i] for i in surest]))


def test_every_group_counts_once() -> None:
    losses = numpy.array([1.0, 1.0, 1.0, 0.0])
    problem = Selective(losses, ("a", "a", "a", "b"))
    assert problem.curve(numpy.zeros(4))[1][-1] == pytest.approx(0.5)


def test_equal_scores_have_the_risk_of_a_random_order() -> None:
    losses = rng.random(12)
    problem = Selective(losses, tuple("aabbccddeeff"))
    _, risk = problem.curve(numpy.zeros(12))
    numpy.testing.assert_allclose(risk, losses.mean())
    assert problem.area(numpy.ones(12), resamples=50)["mean"] == pytest.approx(losses.mean())


def test_an_informed_score_beats_chance_and_a_coin_does_not() -> None:
    losses = (rng.random(60) < 0.4).astype(float)
    problem = Selective(losses, tuple(f"g{place // 2}" for place in range(60)))
    found = compare(
        problem,
        {"informed": -losses + rng.normal(0, 0.5, 60), "coin": rng.random(60),
         "always yes": numpy.zeros(60)},
    )  # fmt: skip
    better = found["differences"]["informed - always yes"]
    assert better["high"] < 0 and better["share_below_zero"] > 0.97
    assert found["areas"]["informed"]["mean"] - found["areas"]["coin"]["mean"] == pytest.approx(
        found["differences"]["informed - coin"]["mean"]
    )
    coin = problem.difference(rng.random(60), numpy.zeros(60))
    assert coin["low"] < 0 < coin["high"]


def test_auroc_is_that_of_sklearn_and_its_interval_holds_it() -> None:
    up, down = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 30).round(1)  # with ties
    found = auroc(up, down)
    labels = [1] * 40 + [0] * 30
    assert found["mean"] == pytest.approx(roc_auc_score(labels, [*up, *down]))
    assert found["low"] < found["mean"] < found["high"]
    wider = auroc(up, down, positive_groups=[str(place // 20) for place in range(40)])
    assert wider["mean"] == found["mean"]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 positives and 2 negatives; need both"):
        auroc(numpy.array([]), numpy.zeros(2))
    with pytest.raises(ConfigError, match="2 losses for 1 groups"):
        Selective(numpy.zeros(2), ("a",))
