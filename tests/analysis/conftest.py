"""A tiny base, tasks in a data folder, a library of random adapters, and the scripts on them."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.lora.library import AdapterLibrary, LibraryEntry, save_library
from tiny_models import base_folder

__all__ = ["base_folder"]

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "library"
ANSWERS = ("red", "green", "blue", "grey", "pink", "brown")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks of twenty rows, of five source groups; two rows of each are held out."""
    root = tmp_path_factory.mktemp("data")
    tasks = [
        {
            "id": f"say-{answer}",
            "descriptions": [f"Say {answer}.", f"The answer is always {answer}."],
            "metric": {"kind": "classification", "labels": [answer, "black"]},
            "group": answer[0],
        }
        for answer in ANSWERS
    ]
    rows = [
        {"task_id": f"say-{answer}", "idx": i, "input": "x" * (3 * i % 20 + 1), "outputs": [answer]}
        for answer in ANSWERS
        for i in range(20)
    ]
    (root / "own").mkdir()
    (root / "own" / "tasks.json").write_text(json.dumps(tasks))
    (root / "own" / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "splits.json").write_text(json.dumps({"train": [f"say-{a}" for a in ANSWERS]}))
    return root


@pytest.fixture(scope="session")
def library(base_folder: Path) -> AdapterLibrary:
    config = LlamaConfig.from_pretrained(base_folder)
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=2, name=str(base_folder))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(len(ANSWERS), *shape, generator=generator)

    weights = LoraWeights(
        spec,
        {g.key: draw(len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: draw(len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )
    entries = [LibraryEntry(f"say-{a}", (f"Say {a}.", f"Always {a}.")) for a in ANSWERS]
    return AdapterLibrary(weights, entries)


@pytest.fixture(scope="session")
def library_folder(library: AdapterLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_library(library, tmp_path_factory.mktemp("library") / "library")


@pytest.fixture(scope="session")
def run_script(library_folder: Path, data_folder: Path) -> Callable[..., None]:
    """Run a script of benchmarks/library in this process, with the library and its data."""

    def run(script: str, *arguments: str | Path | int) -> None:
        given = ["--library", library_folder, "--data", data_folder, *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
            patch.setattr(sys, "argv", [script, *map(str, given)])
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")

    return run
