"""The benchmarks of libraries compare like with like: same adapters, same loss."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from text_to_lora.hypernet import HypernetConfig
from text_to_lora.inference.rows import Rows
from text_to_lora.lora import BaseModelRef, LoraSpec, LoraWeights, Slot
from text_to_lora.lora.spec import make_groups
from text_to_lora.tasks.folder import load_folder
from tiny_models import base_folder

__all__ = ["base_folder"]


@pytest.fixture
def recipe(tmp_path: Path, base_folder: Path) -> str:
    """A recipe of a tiny library."""
    settings = {
        "verb": "adapters",
        "base": {"name": str(base_folder), "alias": "tiny", "dtype": "float32"},
        "adapter": {"targets": "all-linear", "rank": 2, "alpha": 4},
        "data": {"max_prompt_tokens": 64, "max_answer_tokens": 8},
        "optimizer": {"lr": 0.01, "warmup": 0.25},
        "run": {"batch_size": 4, "tokens_per_pass": 256},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tasks of unlike lengths; one has too few rows for whole steps."""
    entries = [
        {"id": name, "descriptions": [f"Say {name}."], "metric": {"kind": "exact_match"}}
        for name in ("red", "green")
    ]
    rows: list[dict[str, Any]] = [
        {"task_id": name, "idx": i, "input": "x" * (5 * i % 17 + 1), "outputs": [name]}
        for name, count in (("red", 20), ("green", 11))
        for i in range(count)
    ]
    path = tmp_path / "tasks"
    path.mkdir()
    (path / "tasks.json").write_text(json.dumps(entries))
    (path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_the_joint_and_the_warm_run_make_the_same_adapters(
    recipe: str, folder: Path, tmp_path: Path
) -> None:
    from benchmarks.speed import joint_adapters as script

    config = script.settings(recipe, folder, 14)
    result = script.agree(config, tmp_path / "work")
    assert result["tasks"] == 2 and result["steps"] == 4
    assert 0 < result["largest_relative_difference_of_delta"] < 1e-4


def test_runs_that_differ_are_not_compared(
    recipe: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.speed import joint_adapters as script

    config = script.settings(recipe, folder, 8)
    other = script.settings(recipe, folder, 8, "optimizer.lr=0.011")
    run_warm = script.run_warm
    monkeypatch.setattr(script, "run_warm", lambda _, *rest: run_warm(other, *rest))
    with pytest.raises(SystemExit, match=r"differ by .* of the norm of ΔW"):
        script.agree(config, tmp_path / "work")


def test_the_variants_of_an_sft_step_take_the_same_rows_to_the_same_loss(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.speed import sft_step as script

    prompts = [[20, 21, 22, 23], [24], [25, 26], [27, 28, 29, 30, 31]]
    rows = Rows.join(prompts, [[40, 41], [42], [43, 44, 45], [46]])
    monkeypatch.setattr(script, "draw_rows", lambda *_: rows)
    options = Namespace(data=None, base=str(base_folder), rows=4, seed=0, rank=2, width=8)
    steps, _ = script.make_steps(options)
    assert list(steps) == ["floor", "static_peft", "adapted", "whole", "before"]
    times = script.measure(steps, 2, time.perf_counter)
    assert all(len(values) == 2 for values in times.values())


def test_task_folders_hold_the_training_rows_alone(folder: Path, tmp_path: Path) -> None:
    from benchmarks.speed import joint_adapters as script

    tasks = load_folder(folder)
    script.write_tasks(tmp_path / "copy", tasks)
    copied = load_folder(tmp_path / "copy")
    assert [task.name for task in copied] == [task.name for task in tasks]
    for task, copy in zip(tasks, copied, strict=True):
        assert copy.examples == task.training()
        assert copy.descriptions == task.descriptions


def test_the_naive_loss_of_delta_is_ours() -> None:
    from benchmarks.speed import reconstruction_step as script

    slots = [Slot(layer, "q", 12, 20) for layer in range(3)]
    slots += [Slot(layer, "v", 12, 4) for layer in range(3)]
    spec = LoraSpec(
        BaseModelRef("x", None, "", "llama"), "layers", 3, 2, 4.0, True, tuple(make_groups(slots))
    )
    result, wanted = (script.random_adapters(spec, 2, "cpu", seed) for seed in (0, 1))
    gradients = []
    for name in ("delta", "naive_delta"):
        predicted = LoraWeights(
            spec,
            {key: t.clone().requires_grad_() for key, t in result.a.items()},
            {key: t.clone().requires_grad_() for key, t in result.b.items()},
        )
        loss = script.LOSSES[name]((predicted.a, predicted.b), (wanted.a, wanted.b))
        factors = [*predicted.a.values(), *predicted.b.values()]
        gradients.append([loss.detach(), *torch.autograd.grad(loss, factors)])
    for ours, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-9)


def test_the_naive_loss_gets_what_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.speed import reconstruction_step as script

    one = 4 * 4096 * 4096 * script.COPIES / script.SHARE_OF_FREE  # bytes, one task and layer
    read_text = Path.read_text
    for share, expected in ((33, (1, 32)), (129, (4, 32)), (9, (1, 8))):
        text = f"MemTotal: 1 kB\nMemAvailable: {int(share * one / 1024)} kB\n"
        monkeypatch.setattr(Path, "read_text", lambda path, *a, t=text, **k: t)
        assert script.fitting("cpu") == expected
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: "MemAvailable: 9 kB\n")
    with pytest.raises(SystemExit, match=r"0 MiB are free, too few"):
        script.fitting("cpu")
    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.fixture
def measured(base_folder: Path, tmp_path: Path) -> Any:
    """Measure a part of the costs of three adapters at tiny sizes, in this process."""
    from benchmarks.speed import cost as script

    config = LlamaConfig.from_pretrained(base_folder)
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=2)
    sizes = HypernetConfig(head="joint", embedding_dim=32, latent_size=16, head_in_size=20)
    setting = script.Setting(spec, sizes, str(base_folder), encoder="minilm", description=5)
    return lambda part: script.PARTS[part](setting, 3, tmp_path)


def test_every_part_of_the_costs_says_what_it_measured(measured: Any) -> None:
    written = measured("write")
    assert written["library"]["disk_bytes"] > 3 * 2 * 512  # of 512 numbers each, in bfloat16
    parts = ("encode", "generate", "load-library", "load-folders", "merge")
    for part in parts:
        with torch.no_grad():
            result = measured(part)
        assert result["seconds"] > 0 and result["peak_bytes"] >= 0 and result["rounds"] >= 1
    assert result["scaled"] == 3 / 2  # two of three switches are measured
    with torch.no_grad():
        rows = measured("apply")["one_token"]
    assert rows["rows"] == 3 and rows["base_seconds_per_token"] > 0
