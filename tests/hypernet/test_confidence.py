"""Confidence files: what comes back, and every damage named; what features are read."""

from __future__ import annotations

import json
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
    Confidence,
    Reference,
    save_confidence,
)
from text_to_lora.lora import LoraSpec
from text_to_lora.lora.sketch import SKETCH_SIZE

TEXTS = ("Say yes", "one one one two")
TOKENS = (4, 12)
SKETCHES = torch.randn(2, SKETCH_SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def confidence(encoder: EncoderConfig, generator: torch.Generator) -> Confidence:
    dim = encoder.embedding_dim
    return Confidence(
        reference=Reference.make(
            torch.randn(12, dim, generator=generator),
            torch.randn(12, SKETCH_SIZE, generator=generator) + 1.0,
        ),
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
    values = loaded.confidence.probabilities(embeddings[:2], SKETCHES, TEXTS, TOKENS)
    assert values == confidence.probabilities(embeddings[:2], SKETCHES, TEXTS, TOKENS)
    assert all(0 < value < 1 for value in values)
    assert loaded.fingerprint == fingerprint(folder)  # confidence is no part of it


def test_features_and_confidence_are_those_of_a_loop(
    confidence: Confidence, embeddings: Tensor
) -> None:
    reference = confidence.reference
    found = reference.read(embeddings[:2], SKETCHES, TEXTS, TOKENS)
    assert tuple(found) == FEATURES
    points, adapters = reference.points.double().numpy(), reference.adapters.double().numpy()
    for place, text in enumerate(TEXTS):
        one = embeddings[place].double().numpy()
        own = SKETCHES[place].double().numpy() - reference.middle.double().numpy()
        made = sorted(adapter @ own / numpy.linalg.norm(own) for adapter in adapters)
        expected = {
            "nearest": max(point @ one / numpy.linalg.norm(one) for point in points),
            "tokens_per_word": numpy.log(TOKENS[place] / len(text.split())),
            "near_adapters": numpy.mean(made[-NEIGHBOURS:]),
        }
        for name, value in expected.items():
            assert float(found[name][place]) == pytest.approx(value, rel=1e-4), name
        chances = []
        for stage in range(2):
            odds = float(confidence.intercepts[stage])
            for i, name in enumerate(FEATURES):
                scaled = (expected[name] - float(confidence.mean[i])) / float(confidence.scale[i])
                odds += scaled * float(confidence.coefficients[stage, i])
            chances.append(1 / (1 + numpy.exp(-odds)))
        real, helps = chances
        sure = confidence.probabilities(embeddings[:2], SKETCHES, TEXTS, TOKENS)[place]
        assert sure == pytest.approx(real * helps + (1 - real) * 0.3, rel=1e-4)


def test_points_of_ones_own_group_can_be_left_out(confidence: Confidence) -> None:
    reference = confidence.reference
    point = 4  # that both the description and its adapter lie on
    one, made = reference.points[point:][:1], reference.adapters[point:][:1] + reference.middle
    everything = reference.read(one, made, TEXTS[:1], TOKENS[:1])
    others = (torch.arange(12) != point)[None]
    without = reference.read(one, made, TEXTS[:1], TOKENS[:1], unlike=others)
    assert float(everything["nearest"]) == pytest.approx(1, abs=1e-3)
    for name in ("nearest", "near_adapters"):
        assert float(without[name]) < float(everything[name]) - 0.05


def test_confidence_of_another_hypernetwork_is_refused(
    folder: Path, confidence: Confidence
) -> None:
    save_confidence(folder / CONFIDENCE_FILE, confidence.of("other"))
    with pytest.raises(CheckpointError, match="is the confidence of hypernetwork 'other', not of"):
        load_hypernet(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("adapters"), "missing adapters"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "unexpected more"),
        (
            lambda tensors: tensors.update(middle=torch.zeros(5)),
            rf"middle is \(5,\), not \({SKETCH_SIZE},\)",
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


def test_a_file_of_an_earlier_version_is_to_be_fitted_anew(folder: Path) -> None:
    from safetensors import safe_open

    file = folder / CONFIDENCE_FILE
    with safe_open(file, "pt") as opened:
        described = json.loads(opened.metadata()["text_to_lora"])
    save_file(load_file(file), file, {"text_to_lora": json.dumps(described | {"version": 2})})
    with pytest.raises(
        CheckpointError, match="has version 2; this release reads 3; delete it, and"
    ):
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
