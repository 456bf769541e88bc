"""Exporting a library: PEFT loads every folder, names are safe, an interrupted run goes on."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import PreTrainedModel

from text_to_lora.errors import ConfigError
from text_to_lora.library.export import export_library, folder_names
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.lora import LoraSpec, adapted

TASKS = ["sums", "sort/words", "größer"]


@pytest.fixture
def library(kit: Any) -> AdapterLibrary:
    spec = LoraSpec.from_config(
        kit.config("llama"),
        targets=["q_proj", "v_proj"],
        rank=4,
        alpha=6.0,
        rslora=True,
        name="x/y",
    )
    entries = [
        LibraryEntry(task, (f"Do {task}.", "Again."), 0.5 + place, 2.0, 70, 800, "trained")
        for place, task in enumerate(TASKS)
    ]
    return AdapterLibrary(kit.weights(spec, 3), entries)


# peft 0.21 asks transformers 5.23 for a property that it deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_gives_the_logits_of_the_library(
    kit: Any, llama: PreTrainedModel, library: AdapterLibrary, tmp_path: Path
) -> None:
    report = export_library(library, tmp_path / "out")
    batch = kit.batch(3)
    with torch.no_grad():
        plain = llama(**batch).logits
        for task, name in report.folders.items():
            theirs = peft.PeftModel.from_pretrained(deepcopy(llama), str(tmp_path / "out" / name))
            with adapted(llama, library.adapter(task)):
                ours = llama(**batch).logits
            torch.testing.assert_close(theirs(**batch).logits, ours, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(ours, plain, atol=0.1)


def test_a_folder_says_all_that_the_library_knows(library: AdapterLibrary, tmp_path: Path) -> None:
    loaded = load_library(save_library(library, tmp_path / "library"))
    report = export_library(loaded, tmp_path / "out")
    folder = tmp_path / "out" / report.folders["sort/words"]
    assert json.loads((folder / "provenance.json").read_text()) == {
        "task": "sort/words",
        "descriptions": ["Do sort/words.", "Again."],
        "validation_loss": 1.5,
        "base_loss": 2.0,
        "steps": 70,
        "rows": 800,
        "source": "trained",
        "base": "x/y",
        "adapter_hash": loaded.entry("sort/words").hash,
        "library": loaded.fingerprint,
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["r"], config["use_rslora"]) == (4, 4, False)
    assert json.loads((tmp_path / "out" / "index.json").read_text()) == {
        "format": "text-to-lora export",
        "version": 1,
        "folders": report.folders,
    }


def test_folder_names_are_safe_and_distinct() -> None:
    tasks = ["plain-1.x", "a/b", "a_b", "a b", "A", "a", "..", ".x", "con", "index.json", "x" * 300]
    names = folder_names(tasks)
    assert names["plain-1.x"] == "plain-1.x"
    assert names["a_b"] == "a_b"
    assert len({name.casefold() for name in names.values()}) == len(tasks)
    for name in names.values():
        assert name.isascii()
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith(".")
        assert name not in ("con", "index.json")
        assert len(name) < 120
    assert folder_names(["a/b"])["a/b"] == names["a/b"] == "a_b-c14cddc0"


def test_chosen_tasks_alone_are_written_and_the_mapping_grows(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    first = export_library(library, tmp_path, tasks=["größer", "größer"])
    assert list(first.folders) == ["größer"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [first.folders["größer"]]
    second = export_library(library, tmp_path, tasks=["sums"])
    assert second.unchanged == ()
    mapping = json.loads((tmp_path / "index.json").read_text())["folders"]
    assert mapping == first.folders | second.folders
    with pytest.raises(ConfigError, match="no task 'sum' "):
        export_library(library, tmp_path, tasks=["sum"])


def test_finished_folders_are_kept_and_damaged_ones_written_again(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    folders = export_library(library, tmp_path, tasks=TASKS[:2]).folders
    file = tmp_path / folders["sums"] / "adapter_model.safetensors"
    content, other = file.read_bytes(), tmp_path / folders["sort/words"]
    file.write_bytes(content[:-9])
    before = other.stat().st_ino
    report = export_library(library, tmp_path)
    assert report.unchanged == ("sort/words",)
    assert other.stat().st_ino == before
    assert file.read_bytes() == content
    assert export_library(library, tmp_path).unchanged == tuple(TASKS)


def test_of_two_exports_at_once_both_stand_in_the_mapping(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    tasks = library.names

    def export_another(words: str) -> None:
        export_library(library, tmp_path, tasks=tasks[:1])

    export_library(library, tmp_path, tasks=tasks[1:2], progress=export_another)
    mapping = json.loads((tmp_path / "index.json").read_text())["folders"]
    assert sorted(mapping) == sorted(tasks[:2])
    assert not list(tmp_path.glob(".*"))


def test_other_content_is_refused_before_anything_is_written(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    folders = export_library(library, tmp_path / "first").folders
    last = folders[library.names[-1]]
    out = tmp_path / "out"
    (out / "sums").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"sums' is not this library's adapter of 'sums'; pass"):
        export_library(library, out)
    (out / last).mkdir()
    (out / last / "thesis.tex").write_text("work")
    with pytest.raises(ConfigError, match=r"holds 'thesis\.tex', which this program did not write"):
        export_library(library, out, overwrite=True)
    assert {path.name for path in out.rglob("*")} == {"sums", last, "thesis.tex"}
    (out / last / "thesis.tex").unlink()
    export_library(library, out, overwrite=True)
    other = AdapterLibrary(library.weights.scale(2.0), library.entries)
    with pytest.raises(ConfigError, match="is not this library's adapter of 'sums'"):
        export_library(other, out)
    (out / "index.json").write_text('{"format": "mine"}')
    with pytest.raises(ConfigError, match=r"format 'mine'; 'text-to-lora export' is expected"):
        export_library(library, out)
