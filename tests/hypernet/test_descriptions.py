"""Training descriptions beside a hypernetwork: the nearest one, the file, and every damage named."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import CheckpointError
from text_to_lora.hypernet import Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.hypernet.descriptions import (
    DESCRIPTIONS_FILE,
    MOST_BYTES,
    TrainingDescriptions,
    load_descriptions,
    save_descriptions,
)
from text_to_lora.lora import LoraSpec

TEXTS = ("Say red.", "Gib die Hauptstadt an: Zürich?", "Answer in capitals")


@pytest.fixture
def descriptions(embeddings: Tensor) -> TrainingDescriptions:
    return TrainingDescriptions.make(TEXTS, 7 * embeddings)


@pytest.fixture
def folder(
    tmp_path: Path,
    trained: Callable[..., Hypernetwork],
    spec: LoraSpec,
    encoder: EncoderConfig,
    descriptions: TrainingDescriptions,
) -> Path:
    hypernet = trained("shared", spec)
    path = tmp_path / "hypernet"
    return save_hypernet(path, hypernet, encoder, training={}, descriptions=descriptions)


def test_the_nearest_description_has_the_largest_cosine(
    descriptions: TrainingDescriptions, embeddings: Tensor, generator: torch.Generator
) -> None:
    new = torch.randn(5, embeddings.shape[1], generator=generator)
    for vector, nearest in zip(new, descriptions.nearest(new), strict=True):
        cosines = [float(functional.cosine_similarity(vector, e, dim=0)) for e in embeddings]
        assert nearest.text == TEXTS[cosines.index(max(cosines))]
        assert nearest.cosine == pytest.approx(max(cosines), abs=1e-3)  # half precision
    same = descriptions.nearest(embeddings)
    assert [nearest.text for nearest in same] == list(TEXTS)
    assert [nearest.cosine for nearest in same] == pytest.approx([1, 1, 1], abs=1e-3)


def test_many_descriptions_are_thinned(tmp_path: Path) -> None:
    texts = [f"task {number} " + "word " * 40 for number in range(1500)]
    thinned = TrainingDescriptions.make(texts, torch.randn(1500, 384))
    assert thinned.texts == tuple(texts[::2])
    save_descriptions(tmp_path / "file", thinned, hypernet="abc")
    assert (tmp_path / "file").stat().st_size < 1.05 * MOST_BYTES


def test_a_folder_of_an_earlier_release_loads_without_its_confidence_file(folder: Path) -> None:
    (folder / DESCRIPTIONS_FILE).unlink()
    (folder / "confidence.safetensors").write_bytes(b"of an earlier release")
    assert load_hypernet(folder).descriptions is None


def test_descriptions_come_back_with_the_hypernetwork_alone(
    folder: Path, descriptions: TrainingDescriptions
) -> None:
    loaded = load_hypernet(folder).descriptions
    assert loaded is not None and loaded.texts == TEXTS
    assert torch.equal(loaded.embeddings, descriptions.embeddings)
    (tensor,) = load_file(folder / DESCRIPTIONS_FILE).values()
    assert (tensor.dtype, tensor.shape) == (torch.float16, (3, 32))
    save_descriptions(folder / DESCRIPTIONS_FILE, descriptions, hypernet="0" * 64)
    with pytest.raises(CheckpointError, match=r"belongs to the hypernetwork '0{64}', not to"):
        load_hypernet(folder)


def refusal(file: Path) -> str:
    """What is said of a file of the hypernetwork "abc", in one line."""
    with pytest.raises(CheckpointError) as caught:
        load_descriptions(file, hypernet="abc", embedding_dim=32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: replace(d, texts=d.texts[:2]), "shape of embeddings (3, 32), not (2, 32)"),
        (lambda d: replace(d, embeddings=d.embeddings[:, :8].contiguous()), "(3, 8), not (3, 32)"),
        (lambda d: replace(d, texts=(), embeddings=d.embeddings[:0]), "no texts"),
        (lambda d: replace(d, embeddings=d.embeddings * torch.nan), "NaN or infinity"),
        (lambda d: replace(d, embeddings=d.embeddings.double()), "not float16: embeddings float64"),
    ],
)
def test_what_does_not_fit_is_named(
    damage: Callable[[TrainingDescriptions], TrainingDescriptions],
    message: str,
    descriptions: TrainingDescriptions,
    tmp_path: Path,
) -> None:
    save_descriptions(tmp_path / "file", damage(descriptions), hypernet="abc")
    assert f"{message}; copy it again" in refusal(tmp_path / "file")


HEADER = (
    '{"format": "text-to-lora training descriptions", "version": 1, "hypernet": "abc", "texts": '
)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("[1]", "describes itself by [1]; copy it again"),
        ("[" * 5000, "is truncated or corrupt ('is nested more than 64 deep"),
        ('{"format": "a\\nb"}', r"has format 'a\nb'"),
        ("{}", "has format None"),
        (HEADER + "null}", "no list of texts"),
        (HEADER + '"a text"}', "no list of texts"),
        (HEADER + "[1, 2, 3]}", "no list of texts"),
    ],
)
def test_a_file_that_describes_itself_wrongly_is_refused(
    described: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    save_file({"embeddings": torch.zeros(3, 32).half()}, file, {"text_to_lora": described})
    assert message in refusal(file)
    file.write_bytes(file.read_bytes()[:100])
    assert "file' is truncated or corrupt" in refusal(file)
    file.unlink()
    os.mkfifo(file)
    assert "is not a file; copy it again" in refusal(file)
