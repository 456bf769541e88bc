"""Reconstructions in which the hypernetwork reads the base's token states of the descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora import TextToLora, load_base
from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.hypernet import load_hypernet
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, save_library
from text_to_lora.lora import LoraSpec
from text_to_lora.training import reconstruction
from text_to_lora.training.library_batches import LibraryBatches, embed_tasks
from text_to_lora.training.reconstruction import reconstruct, train_reconstruction
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from tiny_models import random_adapters, save_base

Settings = Callable[..., ReconstructionConfig]
COLOURS = ("red", "green", "blue")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "plot_reconstruction", lambda history, path: None)


def make_library(base: Path, name: str) -> AdapterLibrary:
    """Three adapters of two descriptions each; name: what they call their base."""
    config = LlamaConfig.from_pretrained(base)
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2, name=name)
    entries = [LibraryEntry(f"say-{c}", (f"Say {c}.", f"Always answer {c}.")) for c in COLOURS]
    return AdapterLibrary(random_adapters(spec, 3, torch.Generator().manual_seed(0)), entries)


@pytest.fixture(scope="module")
def library(base_folder: Path) -> AdapterLibrary:
    return make_library(base_folder, str(base_folder))


@pytest.fixture(scope="module")
def read_settings() -> Settings:
    """Settings of a run of seconds that reads tokens; `changes` are sections over them."""

    def make(**changes: dict[str, Any]) -> ReconstructionConfig:
        sections: dict[str, dict[str, Any]] = {
            "encoder": {"name": "hash"},
            "hypernet": {"latent_size": 8, "head_in_size": 16, "dropout": 0.2},
            "tokens": {
                "read": True,
                "attention_size": 8,
                "layer_stride": 1,
                "direct": ["self_attn.o_proj", "mlp.down_proj"],
            },
            "data": {"tasks_per_batch": 2},
            "optimizer": {"lr": 0.01},
            "run": {"steps": 6, "log_every": 2, "eval_every": 3, "save_every": 2, "device": "cpu"},
        }
        for name, fields in changes.items():
            sections[name] = {**sections.get(name, {}), **fields}
        return ReconstructionConfig.from_dict(sections)

    return make


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, library: AdapterLibrary, read_settings: Settings
) -> Path:
    """A run of six steps with a checkpoint after every second."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as context:
        context.setattr(reconstruction, "plot_reconstruction", lambda history, path: None)
        return reconstruct(library, read_settings(), output_dir=folder).parent


def test_a_run_trains_every_part_that_reads_tokens(
    trained: Path, library: AdapterLibrary, read_settings: Settings, tmp_path: Path
) -> None:
    config = read_settings(run={"steps": 1, "eval_every": 1, "save_every": 1})
    early = reconstruct(library, config, output_dir=tmp_path / "run").parent
    first = load_hypernet(early / "last").hypernet.state_dict()
    last = load_hypernet(trained / "last").hypernet.state_dict()
    parts = [name for name in last if name.startswith(("attention.", "memory."))]
    assert any(name.startswith("memory.") for name in parts)
    assert [name for name in parts if torch.equal(first[name], last[name])] == []


def test_an_interrupted_run_ends_with_the_same_bytes(
    trained: Path,
    library: AdapterLibrary,
    read_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = LibraryBatches.__getitem__

    def stop(self: LibraryBatches, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return batches(self, step)

    with monkeypatch.context() as context:
        context.setattr(LibraryBatches, "__getitem__", stop)
        with pytest.raises(KeyboardInterrupt):
            reconstruct(library, read_settings(), output_dir=tmp_path / "run")
    reconstruct(library, read_settings(), output_dir=tmp_path / "run")
    for part in ("hypernet", "last"):
        name = Path(part) / "model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_generated_adapters_have_the_error_that_the_run_measured(
    trained: Path, library: AdapterLibrary, base_folder: Path
) -> None:
    t2l = TextToLora.from_pretrained(trained / "last", base=load_base(base_folder))
    generated = t2l.generate([entry.descriptions[0] for entry in library.entries]).weights
    wanted = library.weights
    sides = [
        (found[key] - given[key]).abs().mean().item()
        for found, given in ((generated.a, wanted.a), (generated.b, wanted.b))
        for key in given
    ]
    measured = json.loads((trained / "result.json").read_text())["last"]["factor_l1"]
    assert measured == pytest.approx(fmean(sides), rel=1e-4)


def test_texts_go_with_their_embeddings(
    library: AdapterLibrary, read_settings: Settings, tmp_path: Path
) -> None:
    embeddings = embed_tasks(library, read_settings(), tmp_path, CPU)
    batches = LibraryBatches(library, embeddings, tasks_per_batch=3, seed=0)
    seen = set()
    for step in range(20):
        batch = batches[step]
        texts = batch.texts()
        seen |= set(texts)
        for name, text, row in zip(batch.names(), texts, batch.embeddings, strict=True):
            assert text in library.entry(name).descriptions
            assert torch.equal(row, embeddings.rows[embeddings.texts.index(text)])
    assert len(seen) == 6


def test_another_name_of_the_base_is_given_in_the_settings(
    base_folder: Path, read_settings: Settings, tmp_path: Path
) -> None:
    folder = save_library(make_library(base_folder, "nowhere"), tmp_path / "library")
    data = {"library": str(folder)}
    with pytest.raises(ConfigError, match="'nowhere'"):
        train_reconstruction(read_settings(data=data), output_dir=tmp_path / "none")
    config = read_settings(data=data | {"base": str(base_folder)})
    result = train_reconstruction(config, output_dir=tmp_path / "run")
    assert load_hypernet(result).training["data"]["base"] == base_folder.name  # no whole path
    other = save_base(tmp_path / "other", hidden_size=64)
    with pytest.raises(SpecError):
        config = read_settings(data=data | {"base": str(other)})
        train_reconstruction(config, output_dir=tmp_path / "wide")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"conditioning": {"kind": "one-hot"}},
            r"^tokens\.read is true but conditioning\.kind is 'one-hot', which has no description",
        ),
        (
            {"tokens": {"read": False}, "data": {"base": "embedded"}},
            r"^data\.base is 'embedded' but tokens\.read is false",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(
    changes: dict[str, Any], message: str, read_settings: Settings
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_settings(**changes)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"heads": 3}, "attention_size is 8; a multiple of heads=3"),
        ({"direct": ["mlp.fc"]}, r"direct is \['mlp\.fc'\]; leave it empty, or choose among"),
    ],
)
def test_sizes_that_cannot_work_are_refused(
    tokens: dict[str, Any],
    message: str,
    library: AdapterLibrary,
    read_settings: Settings,
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=message):
        reconstruct(library, read_settings(tokens=tokens), output_dir=tmp_path / "run")
