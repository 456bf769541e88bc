"""The list of formats: every module of the package is one, and all are called alike."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from text_to_lora import export
from text_to_lora.errors import ConfigError
from text_to_lora.export import FORMATS, ExportAdapter, find_format


def test_every_module_of_the_package_is_a_format() -> None:
    folder = Path(export.__file__).parent
    modules = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    assert modules == sorted(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_the_same_arguments(name: str) -> None:
    expected = inspect.signature(ExportAdapter.__call__).parameters
    assert list(inspect.signature(find_format(name)).parameters) == list(expected)[1:]


def test_an_unknown_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        find_format("onnx")
    assert str(caught.value) == "unknown format 'onnx'; choose from gguf, mlx, ollama, peft"
