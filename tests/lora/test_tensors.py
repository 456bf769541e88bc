"""Safetensors files from anywhere: what is no such file, and what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from text_to_lora.errors import AdapterFormatError, CheckpointError, T2LError
from text_to_lora.lora.tensors import find_differences, load_tensors

TENSORS = {"w": torch.arange(300.0).reshape(3, 100), "x": torch.ones(2)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def keep_bytes(number: int) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(file.read_bytes()[:number])


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("error", [AdapterFormatError, CheckpointError])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (keep_bytes(0), "is truncated or corrupt ("),
        (keep_bytes(5), "is truncated or corrupt ("),
        (keep_bytes(200), "is truncated or corrupt ("),
        (keep_bytes(-1), "copy or make it again"),
        (lambda file: file.write_bytes(pickle.dumps({"w": 1})), "is a pickle named safetensors"),
        (lambda file: torch.save({"w": torch.zeros(1)}, file), "can run code and is not read"),
        (
            lambda file: file.rename(file.with_name("pytorch_model.bin")),
            "holds pytorch_model.bin, a pickle, which can run code and is not read; save it again "
            "as model.safetensors",
        ),
        (Path.unlink, "holds no model.safetensors; copy it again"),
        (make_folder, "holds no model.safetensors; copy it again"),
    ],
)
def test_what_is_no_safetensors_file_is_refused_in_one_line(
    file: Path, error: type[T2LError], damage: Callable[[Path], object], message: str
) -> None:
    damage(file)
    with pytest.raises(error) as caught:
        load_tensors(file, error)
    assert message in str(caught.value)
    assert str(file.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_that_begins_as_a_pickle_does_is_read(file: Path) -> None:
    """Bytes 0x80 and 0x05 start a pickle, and a safetensors file with a header of 1408 bytes."""
    for length in range(1024, 1536, 8):  # headers are padded to a multiple of 8 bytes
        save_file(TENSORS, file, metadata={"note": "x" * length})
        start = file.read_bytes()[:2]
        if start[0] == 0x80 and start[1] <= 5:
            break
    else:
        pytest.fail("no header begins as a pickle does")
    assert torch.equal(load_tensors(file, AdapterFormatError)["w"], TENSORS["w"])


def test_a_name_in_a_file_stays_on_one_line_of_bounded_length() -> None:
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    (problem,) = find_differences(shapes, TENSORS | {"a\nb" + "c" * 5000: torch.ones(1)})
    assert problem.startswith(r"unexpected 'a\nbccc") and len(problem) < 1000
