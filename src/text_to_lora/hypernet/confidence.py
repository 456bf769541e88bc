"""Confidence: how likely the adapter of a description helps; one file beside its hypernetwork.

Read from what is there when an adapter is generated: the words of the description, its embedding and
the adapter. `analysis.confidence` fits it; the base model is not needed here.
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
from text_to_lora.files import check_format, parse_json, write_file
from text_to_lora.lora.sketch import SKETCH_SIZE

CONFIDENCE_FILE: Final = "confidence.safetensors"
FORMAT: Final = "text-to-lora confidence"
VERSION: Final = 3
MEANING: Final = "probability that the adapter lowers the answer NLL on the task described"

FEATURES: Final = ("nearest", "tokens_per_word", "near_adapters")
"""What `Reference.read` gives."""

NEIGHBOURS: Final = 8
_KEY: Final = "text_to_lora"
_SIZES: Final = {
    "points": ("points", "embedding_dim"),
    "adapters": ("points", "sketch_size"),
    "middle": ("sketch_size",),
    "mean": ("features",),
    "scale": ("features",),
    "coefficients": ("stages", "features"),
    "intercepts": ("stages",),
    "junk_share": (),
}


@dataclass(frozen=True)
class Reference:
    """What the hypernetwork was trained on, in few numbers.

    points: embeddings of descriptions of training tasks, of norm 1, [points, embedding_dim]
    adapters: sketches of their adapters minus `middle`, of norm 1, [points, SKETCH_SIZE]
    middle: mean of the sketches, [SKETCH_SIZE]
    """

    points: Tensor
    adapters: Tensor
    middle: Tensor

    @classmethod
    def make(cls, embeddings: Tensor, sketches: Tensor) -> Self:
        """Gather descriptions of training tasks, [points, embedding_dim] and [points, SKETCH_SIZE]."""
        middle = sketches.detach().double().mean(0)
        return cls(_unit(embeddings).half(), _unit(sketches - middle).half(), middle.float())

    def read(
        self,
        embeddings: Tensor,
        sketches: Tensor,
        texts: Sequence[str],
        tokens: Sequence[int],
        *,
        unlike: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Give what confidence is read from, by name, each fp64 [tasks].

        embeddings: task embeddings [tasks, embedding_dim]
        sketches: of the adapters at strength 1, as `lora.sketch` gives, [tasks, SKETCH_SIZE]
        texts: the descriptions; tokens: how many each has, as the encoder counts
        unlike: the points that each may look at, bool [tasks, points]; None: all
        """
        told = _unit(embeddings) @ self.points.double().mT  # [tasks, points]
        made = _unit(sketches.cpu() - self.middle.double()) @ self.adapters.double().mT
        if unlike is not None:
            told, made = (cosines.masked_fill(~unlike, -1.0) for cosines in (told, made))
        words = torch.tensor([max(1, len(t.split())) for t in texts], dtype=torch.float64)
        return {
            "nearest": told.max(1).values,
            "tokens_per_word": (torch.tensor(tokens, dtype=torch.float64) / words).log(),
            "near_adapters": made.topk(min(NEIGHBOURS, made.shape[1])).values.mean(1),
        }


@dataclass(frozen=True)
class Confidence:
    """Two logistic regressions on features of a description, by the law of total probability.

    The first gives the chance that a text describes a task, the second that of a gain if it does;
    junk gains as often as measured.

    mean, scale: of FEATURES, [features]
    coefficients: [stages, features]; intercepts: [stages]; junk_share: of junk that gains
    fit: how it was made and how well it does, as JSON values
    hypernet: fingerprint of the hypernetwork that it is of
    """

    reference: Reference
    mean: Tensor
    scale: Tensor
    coefficients: Tensor
    intercepts: Tensor
    junk_share: Tensor
    fit: Mapping[str, Any]
    hypernet: str

    def probabilities(
        self,
        embeddings: Tensor,
        sketches: Tensor,
        texts: Sequence[str],
        tokens: Sequence[int],
    ) -> list[float]:
        """Give the confidence of each description; arguments as of `Reference.read`."""
        read = self.reference.read(embeddings, sketches, texts, tokens)
        return self._chances(torch.stack([read[name] for name in FEATURES], dim=1))

    def from_features(self, features: NDArray[numpy.float64]) -> list[float]:
        """Give the confidence for features in the order of FEATURES, [tasks, features]."""
        return self._chances(torch.from_numpy(features))

    def _chances(self, values: Tensor) -> list[float]:
        scaled = (values - self.mean.double()) / self.scale.double()
        log_odds = scaled @ self.coefficients.double().mT + self.intercepts.double()
        real, helps = log_odds.sigmoid().unbind(1)
        probabilities: list[float] = torch.lerp(self.junk_share.double(), helps, real).tolist()
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
        "adapters": reference.adapters.half(),
        "middle": reference.middle.float(),
        "mean": confidence.mean.float(),
        "scale": confidence.scale.float(),
        "coefficients": confidence.coefficients.float(),
        "intercepts": confidence.intercepts.float(),
        "junk_share": confidence.junk_share.float(),
    }
    described = {
        "format": FORMAT,
        "version": VERSION,
        "features": list(FEATURES),
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
            described = parse_json((opened.metadata() or {}).get(_KEY, "{}"))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(file)!r} is truncated or corrupt ({error}); copy it again or fit it anew with "
            "`t2l eval confidence`"
        ) from error
    check_format(
        described,
        file,
        name=FORMAT,
        version=VERSION,
        error=CheckpointError,
        when_earlier="delete it, and fit it anew with `t2l eval confidence`",
    )
    if described.get("hypernet") != hypernet:
        raise CheckpointError(
            f"{str(file)!r} is the confidence of hypernetwork {described.get('hypernet')!r}, not of "
            f"{hypernet!r} beside it; delete it or fit it anew with `t2l eval confidence`"
        )
    _check_tensors(file, described, tensors, embedding_dim)
    return Confidence(
        reference=Reference(
            points=tensors["points"],
            adapters=tensors["adapters"],
            middle=tensors["middle"],
        ),
        mean=tensors["mean"],
        scale=tensors["scale"],
        coefficients=tensors["coefficients"],
        intercepts=tensors["intercepts"],
        junk_share=tensors["junk_share"],
        fit=described["fit"],
        hypernet=hypernet,
    )


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.detach().cpu().double(), dim=-1)


def _check_tensors(
    file: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor], embedding_dim: int
) -> None:
    remedy = "copy it again or fit it anew with `t2l eval confidence`"
    if wrong := sorted(set(tensors) ^ set(_SIZES)):
        state = [f"{'missing' if name in _SIZES else 'unexpected'} {name}" for name in wrong]
        raise CheckpointError(f"{str(file)!r} has {', '.join(state)}; {remedy}")
    if (features := described.get("features")) != list(FEATURES):
        raise CheckpointError(
            f"{str(file)!r} reads features {features!r}, not {', '.join(FEATURES)}; {remedy}"
        )
    points = tensors["points"]
    sizes = {
        "points": len(points) if points.ndim else 0,
        "embedding_dim": embedding_dim,
        "features": len(FEATURES),
        "sketch_size": SKETCH_SIZE,
        "stages": 2,
    }
    for name, dimensions in _SIZES.items():
        shape = tuple(sizes[dimension] for dimension in dimensions)
        if tuple(tensors[name].shape) != shape or 0 in shape:
            raise CheckpointError(
                f"{str(file)!r}: {name} is {tuple(tensors[name].shape)}, not {shape}; {remedy}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{str(file)!r} has NaN or infinity in {name}; {remedy}")
