from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from text_to_lora.errors import ConfigError, T2LWarning
from text_to_lora.models.find import (
    EMBEDDED_BASE,
    base_to_load,
    find_adapter,
    find_base,
    find_hypernet,
    local_hypernets,
)
from text_to_lora.models.smollm2 import SMOLLM2


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installed package of embedded weights that holds nothing."""
    module = ModuleType("text_to_lora_embedded")
    module.ROOT = tmp_path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "text_to_lora_embedded", module)
    return tmp_path


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the default base in the cache."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path))
    folder = tmp_path / SMOLLM2.folder_name
    folder.mkdir()
    return folder


def test_its_name_on_the_hub_is_the_hubs_original(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, **options: Any) -> str:
        assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_base(EMBEDDED_BASE) == tmp_path


def test_without_a_hub_the_one_in_the_cache_takes_its_place(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _unreachable)
    with pytest.warns(T2LWarning, match="the base is 'embedded' instead.*rounded to 4 bits"):
        assert find_base(EMBEDDED_BASE) == cached


def test_no_other_model_is_replaced(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _unreachable)
    message = "cannot get base model 'me/base' from the hub: no route"
    with pytest.raises(ConfigError, match=message) as caught:
        find_base("me/base")
    assert "long traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "revision", "loaded"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, "embedded"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "abc", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("me/base", None, "me/base"),
    ],
)
def test_what_an_adapter_names_is_loaded_by_the_bytes_that_it_was_made_with(
    name: str, revision: str | None, loaded: str
) -> None:
    assert base_to_load(name, revision) == loaded


def test_a_missing_part_of_the_package_is_named(package: Path) -> None:
    for find, part in ((find_hypernet, "hypernet"), (find_adapter, "multitask")):
        with pytest.raises(ConfigError, match=f"'text-to-lora-embedded' holds no {part!r}"):
            find("embedded")


@pytest.mark.parametrize("name", ["gpt9", "./nowhere", "a/b/c", "two words/x", "/no/such"])
def test_an_unknown_name_is_quoted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", _unreachable)
    with pytest.raises(ConfigError, match="unknown hypernetwork") as caught:
        find_hypernet(name)
    assert repr(name) in str(caught.value)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="is a file; give the folder of the hypernetwork"):
        find_hypernet(tmp_path / "x")


def _unreachable(name: str, **options: Any) -> str:
    raise OSError(f"no route to the repository {name}\nlong traceback")


def test_hypernetworks_are_found_two_levels_deep(hypernet_folder: Path, tmp_path: Path) -> None:
    config = (hypernet_folder / "config.json").read_bytes()
    for name in ("a", "b/c", "b/c/too-deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_bytes(config)
    for name, content in (("other", b'{"format": "x"}'), ("broken", b"{"), ("list", b"[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(content)
    assert local_hypernets(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c"]
