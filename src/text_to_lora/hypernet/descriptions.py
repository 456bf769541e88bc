"""The descriptions that a hypernetwork was trained on, and which of them is nearest to a new one.

They stand in one small file beside the hypernetwork's weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from text_to_lora.errors import CheckpointError, shorten
from text_to_lora.files import check_format, parse_json
from text_to_lora.lora.tensors import find_differences

DESCRIPTIONS_FILE: Final = "descriptions.safetensors"
FORMAT: Final = "text-to-lora training descriptions"
VERSION: Final = 1
MOST_BYTES: Final = 1_000_000
"""Largest size of the texts and embeddings together; with more, evenly spaced ones are stored."""

_KEY: Final = "text_to_lora"
_TENSOR: Final = "embeddings"


@dataclass(frozen=True)
class NearestDescription:
    """The training description nearest to a new description.

    text: the training description
    cosine: of the embeddings of both descriptions, from -1 to 1
    """

    text: str
    cosine: float


@dataclass(frozen=True)
class TrainingDescriptions:
    """Descriptions of training tasks with their embeddings.

    texts: the descriptions
    embeddings: of norm 1, in half precision, [descriptions, embedding_dim]
    """

    texts: tuple[str, ...]
    embeddings: Tensor

    @classmethod
    def make(cls, texts: Sequence[str], embeddings: Tensor) -> Self:
        """Gather descriptions, one a training task, in at most MOST_BYTES.

        embeddings: one a description, of any norm, [descriptions, embedding_dim]
        """
        total = sum(len(text.encode()) + 2 * embeddings.shape[1] for text in texts)
        stride = max(1, -(-total // MOST_BYTES))
        unit = functional.normalize(embeddings.detach().cpu().float()[::stride], dim=-1)
        return cls(tuple(texts[::stride]), unit.half().contiguous())

    def nearest(self, embeddings: Tensor) -> list[NearestDescription]:
        """Find the training description nearest to each of some descriptions.

        embeddings: of the new descriptions, [tasks, embedding_dim]
        """
        new = functional.normalize(embeddings.detach().cpu().double(), dim=-1)
        known = functional.normalize(self.embeddings.double(), dim=-1)
        cosines, places = (new @ known.mT).max(1)
        return [
            NearestDescription(self.texts[place], cosine)
            for place, cosine in zip(places.tolist(), cosines.tolist(), strict=True)
        ]


def save_descriptions(path: Path, descriptions: TrainingDescriptions, *, hypernet: str) -> None:
    """Write training descriptions.

    hypernet: fingerprint of the hypernetwork that was trained on them
    """
    described = {"format": FORMAT, "version": VERSION, "hypernet": hypernet}
    text = json.dumps(described | {"texts": list(descriptions.texts)}, sort_keys=True)
    save_file({_TENSOR: descriptions.embeddings}, path, {_KEY: text})


def load_descriptions(path: Path, *, hypernet: str, embedding_dim: int) -> TrainingDescriptions:
    """Read training descriptions.

    hypernet: fingerprint of the hypernetwork beside the file
    embedding_dim: width of the embeddings that the hypernetwork reads

    Raises CheckpointError when the file is corrupt, of another version or of another hypernetwork,
    or when its tensor does not fit its texts or is not finite.
    """
    place = repr(str(path))

    def error(problem: str) -> CheckpointError:
        remedy = "copy it again, or delete it to do without the nearest training description"
        return CheckpointError(f"{place} {problem}; {remedy}")

    if not path.is_file():
        raise error("is not a file")
    try:
        with safe_open(path, framework="pt") as opened:
            described = parse_json((opened.metadata() or {}).get(_KEY, "{}"))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as cause:
        raise error(f"is truncated or corrupt ({shorten(str(cause))})") from cause
    if not isinstance(described, dict):
        raise error(f"describes itself by {shorten(described)}")
    check_format(described, path, name=FORMAT, version=VERSION, error=CheckpointError)
    if described.get("hypernet") != hypernet:
        raise error(
            f"belongs to the hypernetwork {shorten(described.get('hypernet'))}, not to "
            f"{hypernet!r} beside it"
        )
    texts = described.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise error(f"has texts {shorten(texts)}, no list of texts")
    problems = find_differences({_TENSOR: (len(texts), embedding_dim)}, tensors, "float16")
    if not problems and not (texts and tensors[_TENSOR].isfinite().all()):
        problems = ["NaN or infinity" if texts else "no texts"]
    if problems:
        raise error(f"holds tensors that do not fit: {'; '.join(problems)}")
    return TrainingDescriptions(tuple(texts), tensors[_TENSOR])
