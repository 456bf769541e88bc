"""t2l compress: what it prints is what the two folders and the generated adapters give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora import TextToLora
from text_to_lora import generate as generator
from text_to_lora.evaluation.scoring import Scorer
from text_to_lora.library.library import AdapterLibrary, LibraryEntry, load_library, save_library
from text_to_lora.lora import LoraSpec, LoraWeights, merge
from text_to_lora.models import base as base_module
from text_to_lora.models.base import load_base
from text_to_lora.tasks.folder import load_folder
from text_to_lora.tasks.task import Row
from text_to_lora.training import reconstruction
from text_to_lora.training.compression import fit_settings
from text_to_lora.training.reconstruction_config import ReconstructionConfig
from tiny_models import random_adapters

Run = Callable[..., Any]
ANSWERS = ("red", "green", "blue")
# As long as it takes to see an effect.
QUICK = ("--steps", 20, "--set", "optimizer.lr=0.01", "--set", "encoder.name=hash")


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    """Three adapters that change the tiny base a lot; two have a description."""
    spec = LoraSpec.from_config(
        LlamaConfig.from_pretrained(base_folder),
        targets=["q_proj", "v_proj"],
        rank=2,
        name=str(base_folder),
    )
    weights = random_adapters(spec, 3, torch.Generator().manual_seed(0))
    entries = [
        LibraryEntry(f"say-{answer}", (f"Say {answer}.",) if answer != "blue" else ())
        for answer in ANSWERS
    ]
    folder = tmp_path_factory.mktemp("compress") / "library"
    return save_library(AdapterLibrary(weights, entries), folder)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the tasks, and one that the library does not know."""
    folder = tmp_path_factory.mktemp("tasks")
    names = ("red", "blue", "pink")
    metric = {"kind": "exact_match"}
    tasks = [{"id": f"say-{n}", "descriptions": [f"Say {n}."], "metric": metric} for n in names]
    rows = [
        {"task_id": f"say-{n}", "idx": i, "input": "x" * (i % 7 + 1), "outputs": [n]}
        for n in names
        for i in range(40)
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "plot_reconstruction", lambda history, path: None)


def merged_nll(base: Path, adapter: LoraWeights | None, rows: list[Row]) -> float:
    """Of a model that the adapter was added to for good."""
    model, tokenizer = load_base(str(base))
    if adapter is not None:
        merge(model, adapter)
    answers = Scorer(model, tokenizer, max_new_tokens=0).score(rows)
    return sum(answer.nll for answer in answers) / len(answers)


def mean_error(weights: LoraWeights, expected: LoraWeights) -> float:
    """Mean absolute difference; two sides of two groups count alike."""
    pairs = ((weights.a, expected.a), (weights.b, expected.b))
    return sum((x[key] - y[key]).abs().mean().item() / 4 for x, y in pairs for key in x)


def test_the_numbers_are_those_of_the_folders_and_the_generated_adapters(
    t2l: Run, library_folder: Path, data_folder: Path, base_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    done = t2l("compress", library_folder, "-o", out, *QUICK, "--data", data_folder, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed"]  # the run is gone
    assert (facts["adapters"], facts["conditioning"], facts["head"]) == (3, "one-hot", "joint")
    for key, folder in (("bytes_before", library_folder), ("bytes_after", out)):
        assert facts[key] == sum(file.stat().st_size for file in folder.iterdir())
    assert facts["ratio"] == facts["bytes_before"] / facts["bytes_after"]
    library = load_library(library_folder)
    hypernet = TextToLora.from_pretrained(out)
    pair = (hypernet.generate(library.names).weights, library.weights)
    assert facts["factor_l1"] == pytest.approx(mean_error(*pair), rel=1e-4)
    flat = [torch.cat([w.delta(k).flatten(1) for k in w.a], dim=1) for w in pair]
    relative = ((flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)).mean().item()
    assert facts["delta_error"] == pytest.approx(relative, rel=1e-4)
    scores = facts["scores"]
    assert (scores["tasks"], scores["rows"]) == (2, 8)  # 4 rows of each with idx % 10 == 9
    expected = {"base": 0.0, "before": 0.0, "after": 0.0}
    for task in load_folder(data_folder, ["say-red", "say-blue"]):
        rows = [Row(task, example) for example in task.validation()]
        expected["base"] += merged_nll(base_folder, None, rows) / 2
        expected["before"] += merged_nll(base_folder, library.adapter(task.name), rows) / 2
        generated = hypernet.generate([task.name]).weights
        expected["after"] += merged_nll(base_folder, generated, rows) / 2
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name
    assert len({round(value, 3) for value in expected.values()}) == 3


def test_it_says_what_it_did_in_words_and_that_it_did_not_score(
    t2l: Run, library_folder: Path, tmp_path: Path
) -> None:
    done = t2l("compress", library_folder, "-o", tmp_path / "packed", *QUICK, "--head", "rank")
    assert done.code == 0, done.err
    rows = dict(line.split("  ", 1) for line in done.out.splitlines())
    keys = [key.strip() for key in rows]
    assert keys == ["hypernet", "adapters", "parameters", "bytes", "ratio", "error", "answer NLL"]
    assert "rank, asked by one-hot" in done.out
    assert "not scored; give the tasks with --data DIR" in done.out
    assert "step 20/20" in done.err
    done = t2l("generate", "say-green", "-m", tmp_path / "packed", "-o", tmp_path / "green")
    assert done.code == 0 and (tmp_path / "green" / "adapter_model.safetensors").is_file()
    done = t2l("generate", "say-gren", "-m", tmp_path / "packed", "-o", tmp_path / "other")
    assert done.code == 2 and "nearest 'say-green'" in done.err


def test_one_copy_of_the_base_reads_descriptions_and_scores(
    t2l: Run,
    library_folder: Path,
    data_folder: Path,
    base_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = load_library(library_folder).select(["say-red", "say-green"])
    save_library(described, tmp_path / "described")
    loads: list[str] = []
    load = base_module.load_base

    def count(name: str | None = None, **options: Any) -> Any:
        loads.append(str(name))
        return load(name, **options)

    for module in (base_module, reconstruction, generator):
        monkeypatch.setattr(module, "load_base", count)
    reading = ("--set", "tokens.read=true", "--set", "tokens.attention_size=8")
    reading += ("--set", "tokens.layer_stride=1", "--base", base_folder)
    command = ("compress", tmp_path / "described", "-o", tmp_path / "packed", *QUICK, *reading)
    done = t2l(*command, "--data", data_folder, "--json")
    assert done.code == 0, done.err
    assert loads == [str(base_folder)]
    facts = json.loads(done.out)
    packed = TextToLora.from_pretrained(tmp_path / "packed", base=load(base_folder))
    assert packed.reads_with_base
    weights = packed.generate(["Say red.", "Say green."]).weights
    assert facts["factor_l1"] == pytest.approx(mean_error(weights, described.weights), rel=1e-4)
    (task,) = load_folder(data_folder, ["say-red"])
    rows = [Row(task, example) for example in task.validation()]
    expected = merged_nll(base_folder, packed.generate(["Say red."]).weights, rows)
    assert facts["scores"]["after"] == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_compression_goes_on(
    t2l: Run, library_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = reconstruction.ReconstructionModule.forward, []

    def stop(module: Any, batch: Any) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return forward(module, batch)

    monkeypatch.setattr(reconstruction.ReconstructionModule, "forward", stop)
    command = ("compress", library_folder, "-o", tmp_path / "packed", *QUICK)
    assert t2l(*command).code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["packed.run"]
    done = t2l(*command)
    assert done.code == 0 and "resuming after step 14" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--conditioning", "text"), "1 of 3 tasks have no description: say-blue; add"),
        (("--set", "hypernet.hed=4"), "unknown key 'hypernet.hed', nearest 'hypernet.head'"),
        (("--set", "steps=4"), "override 'steps=4'; write it as section.field=value"),
        (("--set", "tokens.read=true"), "tokens.read is true but conditioning.kind is 'one-hot'"),
        (("--set", "data.adapters=2"), "data.adapters is '2', but the whole library"),
        (("--data", "nowhere"), "data folder 'nowhere' does not exist"),
    ],
)
def test_what_cannot_work_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], said: str, t2l: Run, library_folder: Path, tmp_path: Path
) -> None:
    done = t2l("compress", library_folder, "-o", tmp_path / "packed", *QUICK, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "packed").exists()


def test_tasks_of_others_are_refused_first(
    t2l: Run, library_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    alone = load_library(library_folder).select(["say-green"])
    save_library(alone, tmp_path / "alone")
    done = t2l("compress", tmp_path / "alone", "-o", tmp_path / "new", "--data", data_folder)
    assert done.code == 2 and "has none of the library's tasks" in done.err
    assert "say-green" in done.err and not (tmp_path / "new.run").exists()


def test_settings_follow_the_library(library_folder: Path) -> None:
    library = load_library(library_folder)
    config = ReconstructionConfig.from_dict(fit_settings(library))
    assert config.conditioning.kind == "one-hot"  # one task has no description
    assert config.data.tasks_per_batch == 3 and config.objective.target == "zscore"
    described = library.select(["say-red", "say-green"])
    assert fit_settings(described)["conditioning"] == {"kind": "text"}
    one = ReconstructionConfig.from_dict(fit_settings(library.select(["say-red"])))
    assert one.objective.target == "factors"  # one adapter has no standard deviation
