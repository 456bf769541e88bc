"""One list of public names; each is there and says what it is."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

import text_to_lora

NAMES = [
    "Adapters",
    "LoraSpec",
    "LoraWeights",
    "T2LError",
    "T2LWarning",
    "TextToLora",
    "__version__",
    "adapted",
    "load_adapter",
    "load_base",
    "load_encoder",
    "load_hypernet",
    "merge",
    "refine",
    "save_adapter",
    "save_hypernet",
]
ROOT = Path(__file__).parents[2]


def test_the_public_names_are_these() -> None:
    assert sorted(text_to_lora.__all__) == NAMES
    assert set(NAMES) <= set(dir(text_to_lora))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_a_public_name_and_its_methods_have_docstrings(name: str) -> None:
    value = getattr(text_to_lora, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if not member.startswith("_") and callable(getattr(value, member)):
                assert inspect.getdoc(getattr(value, member)), f"{name}.{member}: {method}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'TextToLoRA'"):
        text_to_lora.TextToLoRA  # noqa: B018


def test_both_distributions_have_one_version() -> None:
    core, embedded = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for folder in (".", "packages/text-to-lora-embedded")
    )
    assert core["version"] == embedded["version"] == text_to_lora.__version__
    extra = core["optional-dependencies"]["embedded"]
    assert f"text-to-lora-embedded=={embedded['version']}" in extra


def test_the_types_are_announced() -> None:
    assert (Path(text_to_lora.__file__).parent / "py.typed").is_file()
