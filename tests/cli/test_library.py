from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.lora import LoraSpec, LoraWeights, save_adapter
from tiny_models import make_config, random_adapters


def make_weights(base: str, *, adapters: int = 1, rank: int = 4, alpha: float = 4.0) -> LoraWeights:
    spec = LoraSpec.from_config(
        make_config(), targets=["q_proj", "v_proj"], rank=rank, alpha=alpha, name=base
    )
    return random_adapters(spec, adapters, torch.Generator().manual_seed(rank))


@pytest.fixture
def tree(base_folder: Path, tmp_path: Path) -> Path:
    """Two adapters, of which one has a description."""
    for name in ("yes", "more/no"):
        provenance = {"description": "Say yes."} if name == "yes" else None
        save_adapter(
            make_weights(str(base_folder)), tmp_path / "tree" / name, provenance=provenance
        )
    return tmp_path / "tree"


@pytest.fixture
def library(base_folder: Path, tmp_path: Path) -> Path:
    entries = [
        LibraryEntry("sums", ("Add up.", "Sum."), 0.25, 1.5, 1200, 800),
        LibraryEntry("sort/words"),
    ]
    weights = make_weights(str(base_folder), adapters=2)
    return save_library(AdapterLibrary(weights, entries), tmp_path / "library")


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_folders_become_a_library(t2l: Any, tree: Path, tmp_path: Path) -> None:
    done = t2l("library", "add", tree, "-o", tmp_path / "new")
    assert (done.code, done.out) == (0, f"{tmp_path / 'new'}  2 added; 2 adapters\n")
    assert done.err.startswith("warning: no descriptions of more/no: ")
    assert done.err.count("\n") == 1
    assert load_library(tmp_path / "new").names == ["more/no", "yes"]


def test_descriptions_come_from_a_file(t2l: Any, tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.json"
    file.write_text(json.dumps({"more/no": ["Say no."]}))
    done = t2l("library", "add", tree, "-o", tmp_path / "new", "--descriptions", file)
    assert (done.code, done.err) == (0, "")
    assert [entry.descriptions for entry in load_library(tmp_path / "new").entries] == [
        ("Say no.",),
        ("Say yes.",),
    ]
    file.write_text(json.dumps({"more/no": "Say no."}))
    done = t2l("library", "add", tree, "-o", tmp_path / "other", "--descriptions", file)
    assert done.code == 2
    assert "descriptions 'Say no.' of task 'more/no'; a list of texts is needed" in done.err


def test_what_is_there_is_kept_unless_overwritten(t2l: Any, tree: Path, tmp_path: Path) -> None:
    t2l("library", "add", tree / "yes", "-o", tmp_path / "new")
    done = t2l("library", "add", tree / "yes", "-o", tmp_path / "new")
    assert done.code == 2
    assert "the library has 1 of these tasks already: yes; pass --overwrite" in done.err
    done = t2l("library", "add", tree / "yes", "-o", tmp_path / "new", "--overwrite")
    assert done.out == f"{tmp_path / 'new'}  0 added, 1 replaced; 1 adapters\n"


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_unlike_ranks_are_refused_or_brought_to_one(
    t2l: Any, tree: Path, base_folder: Path, tmp_path: Path
) -> None:
    save_adapter(make_weights(str(base_folder), rank=8, alpha=2.0), tree / "wide", scale_safe=False)
    done = t2l("library", "add", tree, "-o", tmp_path / "new")
    assert done.code == 2
    assert "rank 4 in 'more/no', 'yes'; rank 8 in 'wide'; bring them to one rank" in done.err
    done = t2l("library", "add", tree, "-o", tmp_path / "new", "--rank", 4, "--json")
    facts = json.loads(done.out)
    error = facts["rank_errors"]["wide"]
    assert 0.1 < error < 1
    assert facts["rank_error"] == {"mean": error, "worst": error, "worst_task": "wide"}
    assert (facts["dtype"], facts["num_adapters"], facts["rescaled"]) == ("float32", 3, True)
    done = t2l("library", "add", tree, "-o", tmp_path / "text", "--rank", 4)
    assert done.out.splitlines()[1:] == [
        f"rank 4: 1 adapters changed rank, relative error of ΔW {error:.4f} on average, "
        f"{error:.4f} at worst (wide)",
        "scaling: unlike scalings were folded into B; ΔW is as it was",
    ]


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_a_broken_adapter_is_left_out_on_request(t2l: Any, tree: Path, tmp_path: Path) -> None:
    file = tree / "more/no/adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    done = t2l("library", "add", tree, "-o", tmp_path / "new")
    assert done.code == 2 and done.err.startswith("error: the adapter of 'more/no': ")
    assert not (tmp_path / "new").exists()
    done = t2l("library", "add", tree, "-o", tmp_path / "new", "--skip-bad")
    assert (done.code, done.out) == (0, f"{tmp_path / 'new'}  1 added, 1 left out; 1 adapters\n")
    assert done.err.startswith("warning: the adapter of 'more/no' is left out: ")


def test_another_base_and_an_unknown_source_are_one_line(
    t2l: Any, tree: Path, base_folder: Path, tmp_path: Path
) -> None:
    save_adapter(make_weights("owner/other"), tree / "other")
    output = ("-o", tmp_path / "new")
    for done, message in (
        (
            t2l("library", "add", tree, *output, "--base", base_folder),
            f"the base is {str(base_folder)!r}, but adapters name 'owner/other'",
        ),
        (t2l("library", "add", tmp_path / "nothing", *output), "error: unknown adapter "),
    ):
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert message in done.err


def test_a_repository_of_the_hub_stands_beside_folders(
    t2l: Any, tree: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "Lots-of-LoRAs/Mistral-7B-Instruct-v0.2-4b-r16-task280"
    fetched = save_adapter(
        make_weights(str(base_folder)), tmp_path / "0a1b", provenance={"description": "Pick one."}
    )
    monkeypatch.setattr("text_to_lora.models.find.find_adapter", {name: fetched}.__getitem__)
    done = t2l("library", "add", tree / "yes", name, "-o", tmp_path / "new")
    assert (done.code, done.err) == (0, "")
    assert [(entry.task, entry.source) for entry in load_library(tmp_path / "new").entries] == [
        ("yes", str(tree / "yes")),
        ("task280", name),
    ]


def test_a_library_is_exported_and_goes_on(t2l: Any, library: Path, tmp_path: Path) -> None:
    done = t2l("library", "export", library, "-o", tmp_path / "out", "--task", "sums")
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'out'}  1 adapters\n", "")
    done = t2l("library", "export", library, "-o", tmp_path / "out")
    assert done.out == f"{tmp_path / 'out'}  2 adapters, 1 were there\n"
    facts = json.loads(t2l("library", "export", library, "-o", tmp_path / "out", "--json").out)
    assert facts["kept"] == ["sums", "sort/words"]
    assert (tmp_path / "out" / facts["folders"]["sort/words"] / "adapter_config.json").is_file()


def test_a_library_is_shown(t2l: Any, library: Path, base_folder: Path) -> None:
    done = t2l("library", "show", library)
    facts, _, table = done.out.partition("\n\n")
    shown = dict(line.split(None, 1) for line in facts.splitlines())
    assert shown["base"] == str(base_folder)
    assert (shown["rank"], shown["adapters"], shown["layers"]) == ("4", "2", "2")
    assert shown["modules"] == "self_attn.q_proj, self_attn.v_proj"
    numbers = 2 * 4 * (32 + 32 + 32 + 16)  # layers · rank · (in and out of q, in and out of v)
    assert (shown["parameters"], shown["bytes"]) == (f"{numbers:,}", f"{2 * 4 * numbers:,}")
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["sums", "0.2500", "1.5000", "1,200", "2"],
        ["sort/words", "-", "-", "-", "0"],
    ]
    entries = json.loads(t2l("library", "show", library, "--json").out)["entries"]
    assert entries[0]["descriptions"] == ["Add up.", "Sum."]


@pytest.mark.filterwarnings("default")  # the command shows its warnings itself
def test_a_damaged_adapter_is_named_or_left_out(t2l: Any, library: Path, tmp_path: Path) -> None:
    file = library / "library.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last adapter's B
    file.write_bytes(content)
    for verb, *output in (("show",), ("export", "-o", tmp_path / "out")):
        done = t2l("library", verb, library, *output)
        assert done.code == 2
        assert "the adapter of 'sort/words' has hash" in done.err
        done = t2l("library", verb, library, *output, "--skip-bad")
        assert done.code == 0
        assert done.err.startswith("warning: library ")
