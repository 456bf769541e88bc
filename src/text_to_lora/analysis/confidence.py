"""Fitting confidence: features of descriptions against the gain that was measured on held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from text_to_lora.analysis.gains import Gain, Generate, make_junk
from text_to_lora.analysis.selective import Selective, auroc, compare
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.confidence import FEATURES, Confidence, Reference
from text_to_lora.lora.sketch import sketch
from text_to_lora.tasks.task import Task

Floats = NDArray[numpy.float64]

SKETCH = 64
MOST_POINTS = 768  # of a reference; 0.7 MB with an embedding of 384 numbers
JUNK_TEXTS = 600  # that the direction away from junk is fitted to
DESCRIPTIONS = 4  # of each training task, for the same
RIDGE_DESCRIBED = 1.0
RIDGE = 3.0
RIDGE_SEEN = RIDGE / 9
SEEN_WEIGHT = 0.4  # of a text of a seen task, against one of a task set aside
CHOSEN = FEATURES[:6]  # "nearest" is what confidence is compared with
MOST_GAIN = 2.0  # nats; single tasks gain more and would outweigh their neighbours
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


def fit_reference(
    sight: Sight, seen: Sequence[Gain], tasks: Sequence[Task], *, seed: int = 0
) -> Reference:
    """Gather what a hypernetwork was trained on.

    seen: of descriptions of training tasks, on held-out rows; each becomes a point
    tasks: the training tasks, whose descriptions are set against made-up junk

    Raises ConfigError when `seen` is empty or too large.
    """
    if not 0 < len(seen) <= MOST_POINTS:
        raise ConfigError(f"{len(seen)} training descriptions; 1 to {MOST_POINTS} are needed")
    texts = [gain.probe.text for gain in seen]
    described = list(dict.fromkeys(t for task in tasks for t in task.descriptions[:DESCRIPTIONS]))
    junk = make_junk(tasks, JUNK_TEXTS, seed=seed + 1)
    real_units, junk_units = _units(sight, described), _units(sight, junk)
    share = len(junk_units) / len(real_units)
    ridge = numpy.full(real_units.shape[1], RIDGE_DESCRIBED)
    direction = fit_logistic(
        numpy.concatenate([real_units, junk_units]),
        numpy.repeat([1.0, 0.0], [len(real_units), len(junk_units)]),
        numpy.repeat([share, 1.0], [len(real_units), len(junk_units)]),
        ridge,
    )
    gains = torch.tensor([gain.gain for gain in seen]).clamp(-MOST_GAIN, MOST_GAIN)
    return Reference(
        points=torch.from_numpy(_units(sight, texts)).half(),
        centre=_in_parts(texts, lambda part: sketch(sight.generate(part), SKETCH)).mean(0),
        gains=gains,
        described=torch.from_numpy(direction[:-1]).float(),
        offset=torch.tensor(direction[-1]).float(),
    )


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
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        mask = None if unlike is None else torch.from_numpy(unlike[start : start + AT_ONCE])
        with torch.no_grad():
            found = reference.read(
                sight.encode(part),
                sight.generate(part),
                part,
                sight.count_tokens(part),
                unlike=mask,
            )
        parts.append(torch.stack([found[name] for name in FEATURES], dim=1))
    values: Floats = torch.cat(parts).numpy()
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
    *,
    hypernet: str,
    chosen: Sequence[str] = CHOSEN,
) -> Confidence:
    """Fit the probability that a gain is above zero to features, and judge it by cross-validation.

    unseen: of tasks that the hypernetwork was not trained on: real, scrambled and junk texts
    seen: of tasks that it was trained on, on rows that it was not, as if their groups were unknown;
        a term of the regression takes up that they gain more, and is left out afterwards
    hypernet: fingerprint of the hypernetwork; chosen: names of the features that are used
    Each group weighs as the root of its number of texts, those of seen tasks SEEN_WEIGHT of that.
    `fit` of the result tells how well each group of `unseen` is foretold by the others.

    Raises ConfigError when there are too few groups, or all gains have one sign.
    """
    count = len(set(unseen.groups.tolist()))
    if count < FEWEST_GROUPS:
        raise ConfigError(
            f"{count} source groups are too few to calibrate by; {FEWEST_GROUPS} or more are "
            "needed (data.validation_one_in sets groups aside)"
        )
    if unseen.helps.min() == unseen.helps.max():
        raise ConfigError("every gain has the same sign; there is nothing to tell apart")
    columns = [FEATURES.index(name) for name in chosen]
    own = unseen.features[:, columns]
    joined = numpy.concatenate([own, seen.features[:, columns]])
    is_seen = numpy.repeat([0.0, 1.0], [len(own), len(seen.gains)])
    helps = numpy.concatenate([unseen.helps, seen.helps])
    groups = numpy.concatenate([unseen.groups, seen.groups])
    ridge = numpy.array([*[RIDGE] * len(columns), RIDGE_SEEN])

    def fit(rows: NDArray[numpy.bool_]) -> tuple[Floats, Floats, Floats]:
        """Mean and scale of the features, coefficients and, last, the intercept."""
        mean, scale = joined[rows].mean(0), joined[rows].std(0).clip(1e-6)
        _, place, counts = numpy.unique(groups[rows], return_inverse=True, return_counts=True)
        weights = numpy.where(is_seen[rows] > 0, SEEN_WEIGHT, 1) / numpy.sqrt(counts[place])
        inputs = numpy.column_stack([(joined[rows] - mean) / scale, is_seen[rows]])
        found = fit_logistic(inputs, helps[rows], weights, ridge)
        return mean, scale, numpy.delete(found, len(columns))

    foretold = numpy.zeros(len(own))
    for group in sorted(set(unseen.groups.tolist())):
        mean, scale, found = fit(groups != group)
        chosen_rows = unseen.groups == group
        values = (own[chosen_rows] - mean) / scale
        foretold[chosen_rows] = _sigmoid(values @ found[:-1] + found[-1])
    mean, scale, found = fit(numpy.ones(len(joined), dtype=bool))
    nearest = unseen.features[:, FEATURES.index("nearest")]
    return Confidence(
        reference=reference,
        features=tuple(chosen),
        mean=torch.from_numpy(mean),
        scale=torch.from_numpy(scale),
        coefficients=torch.from_numpy(found[:-1]),
        intercept=torch.tensor(found[-1]),
        fit={
            "tasks": len({gain.probe.task for gain in unseen.gains}),
            "groups": count,
            "texts": len(unseen.gains),
            "seen_texts": len(seen.gains),
            "cross_validated": judge_confidence(unseen.gains, foretold, nearest),
        },
        hypernet=hypernet,
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


def _units(sight: Sight, texts: Sequence[str]) -> Floats:
    """Embeddings of norm 1, [texts, embedding_dim]."""
    found: Floats = _in_parts(
        texts, lambda part: functional.normalize(sight.encode(part).double(), dim=-1)
    ).numpy()
    return found


def _in_parts(texts: Sequence[str], make: Callable[[Sequence[str]], Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat(
            [make(texts[start : start + AT_ONCE]).cpu() for start in range(0, len(texts), AT_ONCE)]
        )


def _once(texts: Sequence[str], chosen: NDArray[numpy.bool_]) -> NDArray[numpy.intp]:
    """Places of chosen texts, each text once."""
    places: Mapping[str, int] = {texts[i]: int(i) for i in numpy.flatnonzero(chosen)[::-1]}
    return numpy.array(sorted(places.values()), dtype=numpy.intp)
