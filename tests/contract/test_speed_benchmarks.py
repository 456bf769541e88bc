"""The benchmarks of libraries compare like with like: same adapters, same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from benchmarks.lib import random_adapters
from text_to_lora.hypernet import HypernetConfig
from text_to_lora.inference.rows import Rows
from text_to_lora.lora import BaseModelRef, LoraSpec, LoraWeights, Slot
from text_to_lora.lora.spec import make_groups


def test_the_variants_of_an_sft_step_take_the_same_rows_to_the_same_loss(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.speed import sft_step as script

    prompts = [[20, 21, 22, 23], [24], [25, 26], [27, 28, 29, 30, 31]]
    rows = Rows.join(prompts, [[40, 41], [42], [43, 44, 45], [46]])
    descriptions = ["name the colour", "count the words"]
    monkeypatch.setattr(script, "draw_rows", lambda *_: (rows, descriptions))
    steps, _ = script.make_steps(base_folder, str(base_folder))
    assert list(steps) == ["floor", "static_peft", "adapted", "whole", "before"]
    times = script.measure(steps, 2)
    assert all(len(values) == 2 for values in times.values())


def test_the_naive_loss_of_delta_is_ours() -> None:
    from benchmarks.speed import reconstruction_step as script

    slots = [Slot(layer, "q", 12, 20) for layer in range(3)]
    slots += [Slot(layer, "v", 12, 4) for layer in range(3)]
    spec = LoraSpec(
        BaseModelRef("x", None, "", "llama"), "layers", 3, 2, 4.0, True, tuple(make_groups(slots))
    )
    result, wanted = (random_adapters(spec, 2, seed) for seed in (0, 1))
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


@pytest.fixture
def measured(base_folder: Path, tmp_path: Path) -> Any:
    """Measure a part of the costs of three adapters at tiny sizes, in this process."""
    from benchmarks.speed import cost as script

    config = LlamaConfig.from_pretrained(base_folder)
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=2)
    sizes = HypernetConfig(head="joint", embedding_dim=32, latent_size=16, head_in_size=20)
    setting = script.Setting(spec, sizes, config, encoder="minilm", description=5)
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
    assert rows["rows"] == 3 and rows["base_cpu_seconds_per_token"] > 0
