"""Fitting confidence: features of descriptions against the gain that was measured on held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from text_to_lora.analysis.gains import Gain, Generate
from text_to_lora.analysis.selective import Selective, auroc, compare
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.confidence import FEATURES, Confidence, Reference
from text_to_lora.lora.sketch import sketch

Floats = NDArray[numpy.float64]

MOST_POINTS = 768  # of a reference; 1 MB with an embedding of 384 numbers
JUNK_TEXTS = 1000  # that descriptions are told apart from
RIDGE_REAL = 1.0
RIDGE = 30.0
RIDGE_SEEN = RIDGE / 9
SEEN_WEIGHT = 0.4  # of a text of a seen task, against one of a task set aside
STAGES = (("nearest", "tokens_per_word"), ("nearest", "near_adapters"))
"""Features of being real, and of a gain if it is."""
AT_ONCE = 64
FEWEST_GROUPS = 4
BINS = 5


@dataclass(frozen=True)
class Sight:
    """How texts look to a hypernetwork.

    encode: task embeddings; generate: adapters; count_tokens: as the encoder counts
    """

    encode: Callable[[Sequence[str]], Tensor]
    generate: Generate
    count_tokens: Callable[[Sequence[str]], list[int]]


def fit_reference(sight: Sight, seen: Sequence[Gain]) -> Reference:
    """Gather what a hypernetwork was trained on.

    seen: of descriptions of training tasks, on held-out rows; each becomes a point

    Raises ConfigError when `seen` is empty or too large.
    """
    if not 0 < len(seen) <= MOST_POINTS:
        raise ConfigError(f"{len(seen)} training descriptions; 1 to {MOST_POINTS} are needed")
    texts = [gain.probe.text for gain in seen]
    looked = [_look(sight, part) for part in _parts(texts)]
    embeddings, sketches = (torch.cat(parts) for parts in zip(*looked, strict=True))
    return Reference.make(embeddings, sketches)


def read_all(
    reference: Reference,
    sight: Sight,
    texts: Sequence[str],
    *,
    unlike: NDArray[numpy.bool_] | None = None,
) -> Floats:
    """Features of texts in the order of FEATURES, [texts, features].

    unlike: the points that each text may look at, [texts, points]; None: all
    """
    found = []
    for number, part in enumerate(_parts(texts)):
        start = number * AT_ONCE
        mask = None if unlike is None else torch.from_numpy(unlike[start : start + len(part)])
        read = reference.read(*_look(sight, part), part, sight.count_tokens(part), unlike=mask)
        found.append(torch.stack([read[name] for name in FEATURES], dim=1))
    values: Floats = torch.cat(found).numpy()
    return values


@dataclass(frozen=True)
class Measured:
    """Gains with the features of their texts, [gains, features] in the order of FEATURES."""

    gains: Sequence[Gain]
    features: Floats

    @property
    def groups(self) -> NDArray[numpy.str_]:
        """Source group of each gain."""
        return numpy.array([gain.probe.group for gain in self.gains])

    @property
    def helps(self) -> Floats:
        """1 where the adapter lowers the answer NLL, else 0."""
        return numpy.array([float(gain.gain > 0) for gain in self.gains])


def measured(
    reference: Reference, sight: Sight, gains: Sequence[Gain], *, own_points: bool = False
) -> Measured:
    """Read the features of gains' texts.

    own_points: gain i is of point i of the reference: no text looks at points of its own group
    """
    texts = [gain.probe.text for gain in gains]
    if own_points:
        groups = numpy.array([gain.probe.group for gain in gains])
        return Measured(
            gains, read_all(reference, sight, texts, unlike=groups[:, None] != groups[None])
        )
    distinct = list(dict.fromkeys(texts))
    places = {text: place for place, text in enumerate(distinct)}
    features = read_all(reference, sight, distinct)
    return Measured(gains, features[[places[text] for text in texts]])


def fit_confidence(
    reference: Reference,
    unseen: Measured,
    seen: Measured,
    junk: Floats,
    *,
    hypernet: str,
) -> Confidence:
    """Fit the chance of a gain to features in two stages, and judge it by cross-validation.

    unseen: of tasks that the hypernetwork was not trained on: real, scrambled and junk texts
    seen: real texts of tasks that it was trained on, on rows that it was not, as if their groups
        were unknown; a term takes up that they gain more, and is left out afterwards. Their spread
        is the unit of the features.
    junk: features of texts that describe nothing, [texts, features] in the order of FEATURES
    hypernet: fingerprint of the hypernetwork
    The first stage sets `seen` against `junk`; the second foretells the sign of the gain of real
    texts; junk of `unseen` gives how often junk gains. Each group weighs as the root of its number
    of texts, in the second stage those of seen tasks SEEN_WEIGHT of that.
    `fit` of the result tells how well each group of `unseen` is foretold by coefficients of the
    others.

    Raises ConfigError when there are too few groups, no junk, or all gains of real texts have one
    sign.
    """
    count = len(set(unseen.groups.tolist()))
    if count < FEWEST_GROUPS:
        raise ConfigError(
            f"{count} source groups are too few to calibrate by; {FEWEST_GROUPS} or more are "
            "needed (data.validation_one_in sets groups aside)"
        )
    kinds = numpy.array([gain.probe.kind for gain in unseen.gains])
    real, empty = kinds == "real", kinds == "junk"
    if not real.any() or not empty.any():
        raise ConfigError(f"texts of kinds {sorted(set(kinds))}; real and junk are needed")
    if unseen.helps[real].min() == unseen.helps[real].max():
        raise ConfigError("every gain has the same sign; there is nothing to tell apart")
    columns = [[FEATURES.index(name) for name in stage] for stage in STAGES]
    mean, scale = seen.features.mean(0), seen.features.std(0).clip(1e-6)
    own, other, made = (
        (values - mean) / scale for values in (unseen.features, seen.features, junk)
    )
    heaviness = _weights(seen.groups)
    is_real = fit_logistic(
        numpy.concatenate([other, made])[:, columns[0]],
        numpy.repeat([1.0, 0.0], [len(other), len(made)]),
        numpy.append(heaviness * len(made) / heaviness.sum(), numpy.ones(len(made))),
        numpy.full(len(columns[0]), RIDGE_REAL),
    )

    def fit(rows: NDArray[numpy.bool_]) -> tuple[Floats, Floats]:
        """Coefficients and intercepts of both stages, the second fitted to some real texts."""
        kept = rows & real
        is_seen = numpy.repeat([0.0, 1.0], [kept.sum(), len(other)])
        found = fit_logistic(
            numpy.column_stack([numpy.concatenate([own[kept], other])[:, columns[1]], is_seen]),
            numpy.concatenate([unseen.helps[kept], seen.helps]),
            _weights(numpy.concatenate([unseen.groups[kept], seen.groups]))
            * numpy.where(is_seen > 0, SEEN_WEIGHT, 1),
            numpy.array([*[RIDGE] * len(columns[1]), RIDGE_SEEN]),
        )
        coefficients = numpy.zeros((2, len(FEATURES)))
        coefficients[0, columns[0]] = is_real[:-1]
        coefficients[1, columns[1]] = found[:-2]
        return coefficients, numpy.array([is_real[-1], found[-1]])

    coefficients, intercepts = fit(numpy.ones(len(own), dtype=bool))
    whole = Confidence(
        reference=reference,
        mean=torch.from_numpy(mean),
        scale=torch.from_numpy(scale),
        coefficients=torch.from_numpy(coefficients),
        intercepts=torch.from_numpy(intercepts),
        junk_share=torch.tensor(unseen.helps[empty].mean()),
        fit={},
        hypernet=hypernet,
    )
    # Without its own group an intercept moves against the group's outcome, which a ranking over all
    # groups would punish. Constants rank no text before another, so those of the whole fit serve.
    foretold = numpy.zeros(len(own))
    for group in sorted(set(unseen.groups.tolist())):
        left_out = unseen.groups == group
        of_others = replace(whole, coefficients=torch.from_numpy(fit(~left_out)[0]))
        foretold[left_out] = of_others.from_features(unseen.features[left_out])
    nearest = unseen.features[:, FEATURES.index("nearest")]
    return replace(
        whole,
        fit={
            "tasks": len({gain.probe.task for gain in unseen.gains}),
            "groups": count,
            "texts": len(unseen.gains),
            "seen_texts": len(seen.gains),
            "junk_texts": len(junk),
            "cross_validated": judge_confidence(unseen.gains, foretold, nearest),
        },
    )


def judge_confidence(
    gains: Sequence[Gain], confidence: Floats, nearest: Floats, *, seed: int = 0
) -> dict[str, Any]:
    """Tell how well confidence foretells gains, beside accepting all and plain cosine distance.

    confidence: of each gain's text; nearest: its cosine with the nearest training description
    Risk is the share of accepted descriptions whose adapter does not lower the answer NLL, and
    their mean change of NLL; over real descriptions, and over real ones with junk.
    """
    kinds = numpy.array([gain.probe.kind for gain in gains])
    helps = numpy.array([gain.gain > 0 for gain in gains])
    texts = [gain.probe.text for gain in gains]
    changes = numpy.array([-gain.gain for gain in gains])
    groups = [gain.probe.group for gain in gains]
    scores = {
        "confidence": confidence,
        "cosine": nearest,
        "always yes": numpy.zeros(len(gains)),
    }
    report: dict[str, Any] = {"risk_coverage": {}, "auroc": {}}
    populations = {"real": kinds == "real", "real and junk": kinds != "scrambled"}
    for name, chosen in populations.items():
        own = tuple(group for group, is_in in zip(groups, chosen, strict=True) if is_in)
        report["risk_coverage"][name] = {
            measure: compare(
                Selective(losses[chosen], own),
                {way: values[chosen] for way, values in scores.items()},
                seed=seed,
            )
            for measure, losses in (
                ("no_gain", (~helps).astype(float)),
                ("nll_change", changes),
            )
        }
    real, junk = (_once(texts, kinds == kind) for kind in ("real", "junk"))
    for way in ("confidence", "cosine"):
        values = scores[way]
        aurocs = {}
        if len(real) and len(junk):
            aurocs["real against junk"] = auroc(
                values[real],
                values[junk],
                positive_groups=[groups[place] for place in real],
                seed=seed,
            )
        for name, chosen in populations.items():
            up, down = (numpy.flatnonzero(chosen & sign) for sign in (helps, ~helps))
            if len(up) and len(down):
                aurocs[f"gain, {name}"] = auroc(
                    values[up],
                    values[down],
                    positive_groups=[groups[place] for place in up],
                    negative_groups=[groups[place] for place in down],
                    seed=seed,
                )
        report["auroc"][way] = aurocs
    report["calibration"] = calibration(confidence, helps)
    report["kinds"] = {
        str(kind): {
            "texts": int((kinds == kind).sum()),
            "mean_gain": float(-changes[kinds == kind].mean()),
            "gain_above_zero": float(helps[kinds == kind].mean()),
            "mean_confidence": float(confidence[kinds == kind].mean()),
        }
        for kind in sorted(set(kinds))
    }
    return report


def calibration(confidence: Floats, helps: NDArray[numpy.bool_]) -> dict[str, Any]:
    """Confidence beside how often it came true, in bins of equal size; Brier score and log loss."""
    order = numpy.argsort(confidence, kind="stable")
    bins = [part for part in numpy.array_split(order, BINS) if len(part)]
    kept = confidence.clip(1e-6, 1 - 1e-6)
    rate = helps.mean()
    return {
        "bins": [
            {
                "confidence": float(confidence[part].mean()),
                "gain_above_zero": float(helps[part].mean()),
                "texts": len(part),
            }
            for part in bins
        ],
        "brier": float(((confidence - helps) ** 2).mean()),
        "brier_of_the_share": float(((rate - helps) ** 2).mean()),
        "log_loss": float(-numpy.log(numpy.where(helps, kept, 1 - kept)).mean()),
    }


def fit_logistic(inputs: Floats, labels: Floats, weights: Floats, ridge: Floats) -> Floats:
    """Logistic regression with a ridge on all but the intercept, by Newton's method.

    inputs: [items, features]; labels: 0 or 1, [items]; weights: of the items; ridge: [features]
    Returns coefficients and, last, the intercept, [features + 1].
    """
    joined = numpy.concatenate([inputs, numpy.ones((len(inputs), 1))], axis=1)
    penalty = numpy.diag([*ridge, 1e-9])
    found: Floats = numpy.zeros(joined.shape[1])
    for _ in range(50):
        chances = _sigmoid(joined @ found)
        slope = joined.T @ (weights * (chances - labels)) + penalty @ found
        bend = (joined * (weights * chances * (1 - chances))[:, None]).T @ joined + penalty
        step = numpy.linalg.solve(bend, slope)
        found = found - step
        if numpy.abs(step).max() < 1e-9:
            break
    return found


def _sigmoid(values: Floats) -> Floats:
    odds: Floats = 1 / (1 + numpy.exp(-values.clip(-500, 500)))
    return odds


def _weights(groups: NDArray[numpy.str_]) -> Floats:
    """One over the root of the number of items of each item's group."""
    _, place, counts = numpy.unique(groups, return_inverse=True, return_counts=True)
    weights: Floats = 1 / numpy.sqrt(counts[place])
    return weights


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]


def _look(sight: Sight, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Embeddings [texts, embedding_dim] and sketches of the adapters [texts, SKETCH_SIZE]."""
    with torch.no_grad():
        return sight.encode(texts).cpu(), sketch(sight.generate(texts)).cpu()


def _once(texts: Sequence[str], chosen: NDArray[numpy.bool_]) -> NDArray[numpy.intp]:
    """Places of chosen texts, each text once."""
    places: Mapping[str, int] = {texts[i]: int(i) for i in numpy.flatnonzero(chosen)[::-1]}
    return numpy.array(sorted(places.values()), dtype=numpy.intp)
