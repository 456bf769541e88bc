"""Confidence: fitted to what was measured, told apart from noise, no group used for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from text_to_lora.analysis.calibrate import calibrate
from text_to_lora.analysis.confidence import (
    Measured,
    Sight,
    fit_confidence,
    fit_logistic,
    judge_confidence,
)
from text_to_lora.analysis.gains import Gain, Probe, make_junk, plan_probes, scramble
from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions import JUNK
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.hypernet.checkpoint import load_hypernet
from text_to_lora.hypernet.confidence import CONFIDENCE_FILE, FEATURES, Confidence, Reference
from text_to_lora.models.base import load_base
from text_to_lora.serving.generator import TextToLora
from text_to_lora.tasks.task import Example, Metric, Task
from tiny_models import hypernet_folder

__all__ = ["hypernet_folder"]


def make_task(name: str, group: str) -> Task:
    examples = tuple(Example(f"{name} {idx}", (name,), idx) for idx in range(20))
    texts = (f"Say the word {name} and no more.", f"Answer {name}.", f"Always {name}.")
    return Task(name, texts[0], texts, examples, Metric("exact_match"), group=group)


INFORMATIVE = FEATURES.index("near_adapters")


def draw(count: int, seed: int, *, informative: bool) -> Measured:
    """Gains of 12 groups whose sign follows one feature, or nothing."""
    rng = numpy.random.default_rng(seed)
    features = rng.normal(size=(count, len(FEATURES)))
    signal = 2 * features[:, INFORMATIVE] if informative else rng.normal(size=count)
    gains = [
        Gain(Probe(f"t{i}", f"g{i % 12}", ("real", "junk")[i % 2], f"text {i}"), 1.0, 1.0 - gain, 4)
        for i, gain in enumerate(signal + rng.normal(size=count) / 2)
    ]
    return Measured(gains, features)


REFERENCE = Reference.make(torch.eye(3), torch.eye(3))
JUNK_FEATURES = numpy.random.default_rng(9).normal(-1.0, 1.0, size=(50, len(FEATURES)))


def fit(unseen: Measured, seen: Measured) -> Confidence:
    return fit_confidence(REFERENCE, unseen, seen, JUNK_FEATURES, hypernet="x")


def test_logistic_regression_is_that_of_sklearn() -> None:
    rng = numpy.random.default_rng(0)
    inputs = rng.normal(size=(80, 3))
    labels = (inputs[:, 0] + rng.normal(size=80) > 0).astype(float)
    weights = rng.random(80)
    found = fit_logistic(inputs, labels, weights, numpy.full(3, 2.0))
    other = LogisticRegression(C=1 / 2.0, tol=1e-10, max_iter=1000)
    other.fit(inputs, labels, sample_weight=weights)
    numpy.testing.assert_allclose(found[:3], other.coef_[0], rtol=1e-3)
    assert found[3] == pytest.approx(other.intercept_[0], rel=1e-3)


def test_an_informative_feature_is_found_and_beats_accepting_all() -> None:
    unseen = draw(240, 1, informative=True)
    confidence = fit(unseen, draw(60, 2, informative=True))
    found = confidence.fit["cross_validated"]
    area = found["risk_coverage"]["real"]["no_gain"]["differences"]["confidence - always yes"]
    assert area["high"] < 0
    assert found["auroc"]["confidence"]["gain, real"]["low"] > 0.5
    helps = dict(zip(FEATURES, confidence.coefficients[1].tolist(), strict=True))
    assert helps["near_adapters"] > 0.3 > abs(helps["nearest"])
    assert helps["tokens_per_word"] == 0
    chances = numpy.array(confidence.from_features(unseen.features))
    assert abs(chances.mean() - unseen.helps.mean()) < 0.05


def test_noise_is_not_told_apart() -> None:
    unseen = draw(240, 3, informative=False)
    confidence = fit(unseen, draw(60, 4, informative=False))
    found = confidence.fit["cross_validated"]["auroc"]["confidence"]["gain, real and junk"]
    assert found["low"] < 0.55


def test_no_group_is_foretold_by_itself() -> None:
    """A feature that marks one group, all of whose gains are negative, tells nothing of it."""
    unseen = draw(240, 5, informative=False)
    marked = unseen.groups == "g2"
    features = unseen.features.copy()
    features[:, INFORMATIVE] = numpy.where(marked, 5.0, 0.0)
    gains = [
        Gain(gain.probe, 1.0, 2.0, 4) if is_marked else gain
        for gain, is_marked in zip(unseen.gains, marked, strict=True)
    ]
    held = fit(Measured(gains, features), draw(12, 6, informative=False))
    whole = numpy.array(held.from_features(features))
    assert whole[marked].mean() < whole[~marked].mean() - 0.05  # fitted to all, it knows the group
    bins = held.fit["cross_validated"]["calibration"]["bins"]
    spread = max(b["confidence"] for b in bins) - min(b["confidence"] for b in bins)
    assert spread < whole.max() - whole.min()


def test_too_few_groups_and_one_sign_are_refused() -> None:
    few = draw(6, 7, informative=True)
    gains = [Gain(Probe(g.probe.task, "one", "real", "x"), 1, 0.5, 1) for g in few.gains]
    with pytest.raises(ConfigError, match="1 source groups are too few to calibrate by; 4"):
        fit(Measured(gains, few.features), few)
    gains = [Gain(g.probe, 1.0, 0.5, 1) for g in few.gains]
    with pytest.raises(ConfigError, match="every gain has the same sign"):
        fit(Measured(gains, few.features), few)


def test_junk_of_the_fit_is_none_of_the_junk_of_the_test() -> None:
    tasks = [make_task(name, name) for name in ("red", "green", "blue")]
    made = make_junk(tasks, 300, seed=0)
    assert len(set(made)) == 300
    assert set(made).isdisjoint(JUNK)
    assert set(made).isdisjoint(text for task in tasks for text in task.descriptions)
    assert made == make_junk(tasks, 300, seed=0) != make_junk(tasks, 300, seed=1)
    wide = make_junk(tasks, 300, seed=0, wide=True)
    assert len(set(wide)) == 300 and set(wide).isdisjoint(JUNK)
    assert made[:6] == wide[:6]  # the kinds that gains were measured of come first


def test_scrambled_words_are_the_same_words() -> None:
    text = "Say the word red and no more."
    made = scramble(text, Random(0))
    assert made != text
    assert sorted(made.split()) == sorted(text.split())


def test_probes_have_the_asked_kinds() -> None:
    tasks = [make_task(name, name) for name in ("red", "green")]
    probes = plan_probes(tasks, seed=0, real=2, scrambled=1, junk=3)
    for task in tasks:
        own = [probe for probe in probes if probe.task == task.name]
        assert [p.kind for p in own] == ["real"] * 2 + ["scrambled"] + ["junk"] * 3
        assert own[0].text == task.definition
        assert {p.text for p in own if p.kind == "real"} <= set(task.descriptions)


def test_judging_counts_kinds_and_weighs_no_text_twice() -> None:
    gains = draw(40, 8, informative=True).gains
    report = judge_confidence(gains, numpy.linspace(0.1, 0.9, 40), numpy.zeros(40))
    assert report["kinds"]["real"]["texts"] == report["kinds"]["junk"]["texts"] == 20
    assert sum(part["texts"] for part in report["calibration"]["bins"]) == 40


@pytest.fixture(scope="module")
def folder(hypernet_folder: Path) -> Path:
    return hypernet_folder


def test_a_hypernetwork_is_calibrated_and_measuring_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t2l = TextToLora.from_pretrained(folder)
    base, tokenizer = load_base(t2l.spec.base.name, spec=t2l.spec)
    names = ("red", "green", "blue", "pink", "grey", "brown")
    options = {
        "base": base,
        "tokenizer": tokenizer,
        "sight": Sight(
            t2l.encode, lambda texts: t2l.generate(texts).weights, t2l.encoder.count_tokens
        ),
        "hypernet": t2l.fingerprint,
        "seen": [make_task(f"{name}ish", f"{name}ish") for name in names],
        "unseen": [make_task(name, name) for name in names],
        "output_dir": tmp_path,
        "rows_per_task": 2,
        "max_length": 128,
    }
    _, report = calibrate(**options)
    assert report["groups"] == 6 and report["seen_tasks"] == 6
    assert set(report["cross_validated"]["kinds"]) == {"real", "scrambled", "junk"}
    scored: list[int] = []

    def spy(self: Scorer, rows: Sequence[object], **options: object) -> list[object]:
        scored.append(len(rows))
        return []

    monkeypatch.setattr(Scorer, "score", spy)
    confidence, again = calibrate(**options)
    assert again == report and not scored
    assert (tmp_path / CONFIDENCE_FILE).stat().st_size < 1_000_000
    with pytest.raises(ConfigError, match="has gains of another hypernetwork or of other texts"):
        calibrate(**options | {"hypernet": "other"})
    assert load_hypernet(folder).confidence is None  # nothing was put beside the network
    assert confidence.hypernet == t2l.fingerprint
