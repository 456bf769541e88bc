"""Confidence: how likely the adapter of a description helps; one file beside its hypernetwork.

Read from what is there when an adapter is generated: the words of the description, its embedding,
and the adapter's factors. `analysis.confidence` fits it; the base model is not needed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from text_to_lora.errors import CheckpointError
from text_to_lora.files import check_format, write_file
from text_to_lora.lora.sketch import sketch
from text_to_lora.lora.weights import LoraWeights

CONFIDENCE_FILE: Final = "confidence.safetensors"
FORMAT: Final = "text-to-lora confidence"
VERSION: Final = 1
MEANING: Final = "probability that the adapter lowers the answer NLL on the task described"

FEATURES: Final = (
    "described",
    "near",
    "gain_near",
    "far_from_mean",
    "tokens_per_word",
    "distinct_words",
    "nearest",
)
"""What `Reference.read` gives."""

NEIGHBOURS: Final = 8
WARMTH: Final = 0.05  # of the cosine, in the weights of neighbours' gains
_KEY: Final = "text_to_lora"
_SIZES: Final = {
    "points": ("points", "embedding_dim"),
    "centre": ("sketch",),
    "gains": ("points",),
    "described": ("embedding_dim",),
    "offset": (),
    "mean": ("features",),
    "scale": ("features",),
    "coefficients": ("features",),
    "intercept": (),
}


@dataclass(frozen=True)
class Reference:
    """What the hypernetwork was trained on, and what it gained there, in few numbers.

    points: embeddings of descriptions of training tasks, of norm 1, [points, embedding_dim]
    centre: mean sketch of the adapters that the hypernetwork makes of them, [sketch]
    gains: nats a token that each takes off the answer NLL of held-out rows of its task, [points]
    described, offset: a direction [embedding_dim] and a number: the product of an embedding of norm
        1 with the one, plus the other, is the log odds that it is a description and not junk
    """

    points: Tensor
    centre: Tensor
    gains: Tensor
    described: Tensor
    offset: Tensor

    def read(
        self,
        embeddings: Tensor,
        weights: LoraWeights,
        texts: Sequence[str],
        tokens: Sequence[int],
        *,
        unlike: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Give what confidence is read from, by name, each fp64 [tasks].

        embeddings: task embeddings [tasks, embedding_dim]; weights: the adapters made of them
        texts: the descriptions; tokens: how many each has, as the encoder counts
        unlike: the points that each may look at, bool [tasks, points]; None: all
        """
        unit = functional.normalize(embeddings.detach().cpu().double(), dim=-1)
        cosines = unit @ self.points.double().mT  # [tasks, points]
        if unlike is not None:
            cosines = cosines.masked_fill(~unlike, -1.0)
        near = min(NEIGHBOURS, len(self.points))
        sketched = sketch(weights, len(self.centre)).cpu().double() - self.centre.double()
        words = [text.split() or [""] for text in texts]
        lengths = torch.tensor([len(several) for several in words], dtype=torch.float64)
        distinct = torch.tensor([len(set(several)) for several in words], dtype=torch.float64)
        return {
            "described": unit @ self.described.double() + self.offset.double(),
            "near": cosines.topk(near).values.mean(1),
            "gain_near": (cosines / WARMTH).softmax(1) @ self.gains.double(),
            "far_from_mean": sketched.norm(dim=-1).clamp_min(1e-12).log(),
            "tokens_per_word": (torch.tensor(tokens, dtype=torch.float64) / lengths).log(),
            "distinct_words": distinct / lengths,
            "nearest": cosines.max(1).values,
        }


@dataclass(frozen=True)
class Confidence:
    """A logistic regression on features of a description and its adapter.

    features: names of `Reference.read`; mean, scale, coefficients: of these, [features]
    fit: how it was made and how well it does, as JSON values
    hypernet: fingerprint of the hypernetwork that it is of
    """

    reference: Reference
    features: tuple[str, ...]
    mean: Tensor
    scale: Tensor
    coefficients: Tensor
    intercept: Tensor
    fit: Mapping[str, Any]
    hypernet: str

    def probabilities(
        self,
        embeddings: Tensor,
        weights: LoraWeights,
        texts: Sequence[str],
        tokens: Sequence[int],
    ) -> list[float]:
        """Give the confidence of each description; arguments as of `Reference.read`."""
        read = self.reference.read(embeddings, weights, texts, tokens)
        return self._chances(torch.stack([read[name] for name in self.features], dim=1))

    def from_features(self, features: NDArray[numpy.float64]) -> list[float]:
        """Give the confidence for features in the order of FEATURES, [tasks, features]."""
        places = [FEATURES.index(name) for name in self.features]
        return self._chances(torch.from_numpy(features)[:, places])

    def _chances(self, values: Tensor) -> list[float]:
        scaled = (values - self.mean.double()) / self.scale.double()
        log_odds = scaled @ self.coefficients.double() + self.intercept.double()
        probabilities: list[float] = log_odds.sigmoid().tolist()
        return probabilities

    def of(self, fingerprint: str) -> Self:
        """The same, of a hypernetwork whose files have changed and whose numbers have not."""
        return replace(self, hypernet=fingerprint)


def save_confidence(path: Path | str, confidence: Confidence) -> None:
    """Write a confidence file, whole or not at all; points in half precision.

    Raises ConfigError when it cannot be written.
    """
    reference = confidence.reference
    tensors = {
        "points": reference.points.half(),
        "centre": reference.centre.float(),
        "gains": reference.gains.float(),
        "described": reference.described.float(),
        "offset": reference.offset.float(),
        "mean": confidence.mean.float(),
        "scale": confidence.scale.float(),
        "coefficients": confidence.coefficients.float(),
        "intercept": confidence.intercept.float(),
    }
    described = {
        "format": FORMAT,
        "version": VERSION,
        "features": list(confidence.features),
        "fit": dict(confidence.fit),
        "hypernet": confidence.hypernet,
    }
    metadata = {_KEY: json.dumps(described, sort_keys=True)}

    def write(file: Path) -> None:
        save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata)
        file.chmod(0o644)  # safetensors makes its files for their owner alone

    write_file(path, write)


def load_confidence(path: Path | str, *, hypernet: str, embedding_dim: int) -> Confidence:
    """Read a confidence file.

    hypernet: fingerprint of the hypernetwork that it lies beside; embedding_dim: what that reads

    Raises CheckpointError when the file is corrupt, of another hypernetwork or of another version,
    when tensors are missing, left over or of another shape, or not finite.
    """
    file = Path(path)
    try:
        with safe_open(file, framework="pt") as opened:
            described = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(file)!r} is truncated or corrupt ({error}); copy it again or fit it anew with "
            "`t2l eval confidence`"
        ) from error
    check_format(described, file, name=FORMAT, version=VERSION, error=CheckpointError)
    if described.get("hypernet") != hypernet:
        raise CheckpointError(
            f"{str(file)!r} is the confidence of hypernetwork {described.get('hypernet')!r}, not of "
            f"{hypernet!r} beside it; delete it or fit it anew with `t2l eval confidence`"
        )
    _check_tensors(file, described, tensors, embedding_dim)
    return Confidence(
        reference=Reference(
            points=tensors["points"],
            centre=tensors["centre"],
            gains=tensors["gains"],
            described=tensors["described"],
            offset=tensors["offset"],
        ),
        features=tuple(described["features"]),
        mean=tensors["mean"],
        scale=tensors["scale"],
        coefficients=tensors["coefficients"],
        intercept=tensors["intercept"],
        fit=described["fit"],
        hypernet=hypernet,
    )


def _check_tensors(
    file: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor], embedding_dim: int
) -> None:
    remedy = "copy it again or fit it anew with `t2l eval confidence`"
    if wrong := sorted(set(tensors) ^ set(_SIZES)):
        state = [f"{'missing' if name in _SIZES else 'unexpected'} {name}" for name in wrong]
        raise CheckpointError(f"{str(file)!r} has {', '.join(state)}; {remedy}")
    features = described.get("features")
    if not isinstance(features, list) or not set(features) <= set(FEATURES):
        raise CheckpointError(
            f"{str(file)!r} reads features {features!r}; known are {', '.join(FEATURES)}; {remedy}"
        )
    points = tensors["points"]
    sizes = {
        "points": len(points) if points.ndim else 0,
        "embedding_dim": embedding_dim,
        "sketch": len(tensors["centre"]) if tensors["centre"].ndim else 0,
        "features": len(features),
    }
    for name, dimensions in _SIZES.items():
        shape = tuple(sizes[dimension] for dimension in dimensions)
        if tuple(tensors[name].shape) != shape or 0 in shape:
            raise CheckpointError(
                f"{str(file)!r}: {name} is {tuple(tensors[name].shape)}, not {shape}; {remedy}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{str(file)!r} has NaN or infinity in {name}; {remedy}")
