"""Confidence files: what comes back, and every damage named; what features are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import CheckpointError
from text_to_lora.hypernet import Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.hypernet.checkpoint import fingerprint, store_confidence
from text_to_lora.hypernet.confidence import (
    CONFIDENCE_FILE,
    FEATURES,
    NEIGHBOURS,
    WARMTH,
    Confidence,
    Reference,
    save_confidence,
)
from text_to_lora.lora import LoraSpec

TEXTS = ("Say yes", "one one one two")
TOKENS = (4, 12)


@pytest.fixture
def confidence(encoder: EncoderConfig, generator: torch.Generator) -> Confidence:
    dim = encoder.embedding_dim
    points = torch.nn.functional.normalize(torch.randn(12, dim, generator=generator), dim=-1)
    return Confidence(
        reference=Reference(
            points=points.half(),
            gains=torch.randn(12, generator=generator),
        ),
        features=FEATURES[:3],
        mean=torch.randn(3, generator=generator),
        scale=torch.rand(3, generator=generator) + 0.5,
        coefficients=torch.randn(2, 3, generator=generator),
        intercepts=torch.tensor([-0.2, 0.4]),
        junk_share=torch.tensor(0.3),
        fit={"tasks": 3},
        hypernet="",
    )


@pytest.fixture
def folder(
    tmp_path: Path,
    trained: Callable[..., Hypernetwork],
    spec: LoraSpec,
    encoder: EncoderConfig,
    confidence: Confidence,
) -> Path:
    hypernet = trained("shared", spec)
    path = tmp_path / "hypernet"
    return save_hypernet(path, hypernet, encoder, training={}, confidence=confidence)


def test_a_folder_gives_the_same_confidence_back(
    folder: Path, confidence: Confidence, embeddings: Tensor
) -> None:
    loaded = load_hypernet(folder)
    assert loaded.confidence is not None
    assert loaded.confidence.fit == {"tasks": 3}
    values = loaded.confidence.probabilities(embeddings[:2], TEXTS, TOKENS)
    assert values == confidence.probabilities(embeddings[:2], TEXTS, TOKENS)
    assert all(0 < value < 1 for value in values)
    assert loaded.fingerprint == fingerprint(folder)  # confidence is no part of it


def test_features_and_confidence_are_those_of_a_loop(
    confidence: Confidence, embeddings: Tensor
) -> None:
    reference = confidence.reference
    found = reference.read(embeddings[:2], TEXTS, TOKENS)
    assert tuple(found) == FEATURES
    points = reference.points.double().numpy()
    for place, text in enumerate(TEXTS):
        one = embeddings[place].double().numpy()
        one = one / numpy.linalg.norm(one)
        cosines = sorted((float(point @ one) for point in points), reverse=True)
        shares = numpy.exp(numpy.array([point @ one for point in points]) / WARMTH)
        expected = {
            "near": numpy.mean(cosines[:NEIGHBOURS]),
            "gain_near": float(shares @ reference.gains.double().numpy() / shares.sum()),
            "tokens_per_word": numpy.log(TOKENS[place] / len(text.split())),
            "nearest": cosines[0],
        }
        for name, value in expected.items():
            assert float(found[name][place]) == pytest.approx(value, rel=1e-4), name
        chances = []
        for stage in range(2):
            odds = float(confidence.intercepts[stage])
            for i, name in enumerate(confidence.features):
                scaled = (expected[name] - float(confidence.mean[i])) / float(confidence.scale[i])
                odds += scaled * float(confidence.coefficients[stage, i])
            chances.append(1 / (1 + numpy.exp(-odds)))
        real, helps = chances
        own = confidence.probabilities(embeddings[:2], TEXTS, TOKENS)[place]
        assert own == pytest.approx(real * helps + (1 - real) * 0.3, rel=1e-4)


def test_points_of_ones_own_group_can_be_left_out(
    confidence: Confidence, embeddings: Tensor
) -> None:
    one = embeddings[:1]
    everything = confidence.reference.read(one, TEXTS[:1], TOKENS[:1])
    unit = torch.nn.functional.normalize(one.float(), dim=-1)
    best = int((unit @ confidence.reference.points.float().mT).argmax())
    others = torch.ones(1, 12, dtype=torch.bool)
    others[0, best] = False
    without = confidence.reference.read(one, TEXTS[:1], TOKENS[:1], unlike=others)
    assert float(without["nearest"]) < float(everything["nearest"])


def test_confidence_of_another_hypernetwork_is_refused(
    folder: Path, confidence: Confidence
) -> None:
    save_confidence(folder / CONFIDENCE_FILE, confidence.of("other"))
    with pytest.raises(CheckpointError, match="is the confidence of hypernetwork 'other', not of"):
        load_hypernet(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("gains"), "missing gains"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "unexpected more"),
        (
            lambda tensors: tensors.update(gains=torch.zeros(5)),
            r"gains is \(5,\), not \(12,\)",
        ),
        (lambda tensors: tensors["mean"].fill_(torch.nan), "has NaN or infinity in mean"),
    ],
)
def test_damaged_tensors_are_named(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    from safetensors import safe_open

    file = folder / CONFIDENCE_FILE
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_hypernet(folder)


def test_a_truncated_file_is_one_message(folder: Path) -> None:
    file = folder / CONFIDENCE_FILE
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="is truncated or corrupt"):
        load_hypernet(folder)


def test_a_file_is_put_beside_its_own_hypernetwork_alone(
    folder: Path, confidence: Confidence, tmp_path: Path
) -> None:
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    changed = replace(confidence, junk_share=torch.tensor(0.5))
    save_confidence(own, changed.of(fingerprint(folder)))
    store_confidence(folder, own)
    loaded = load_hypernet(folder).confidence
    assert loaded is not None and float(loaded.junk_share) == 0.5
    save_confidence(other, changed.of("other"))
    with pytest.raises(CheckpointError, match="hypernetwork 'other'"):
        store_confidence(folder, other)
