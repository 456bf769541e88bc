"""Recipes of reconstruction: the release's settings for Mistral-7B, and a step of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MistralConfig

from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet
from text_to_lora.library.library import AdapterLibrary, LibraryEntry
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.training import reconstruction
from text_to_lora.training.config import load_recipe, recipes
from text_to_lora.training.reconstruction import reconstruct
from text_to_lora.training.reconstruction_config import ReconstructionConfig

NAMES = [name for name in recipes() if name.startswith("reconstruct-")]


def test_the_mistral_recipe_has_the_networks_and_hyper_parameters_of_the_release() -> None:
    config = load_recipe("reconstruct-mistral", kind=ReconstructionConfig)
    base = MistralConfig(num_key_value_heads=8, head_dim=128)  # all else is as in Mistral-7B
    spec = LoraSpec.from_config(base, targets=["q_proj", "v_proj"], rank=8)
    sizes = HypernetConfig(embedding_dim=1024, output="zscore", **config.hypernet.model_dump())
    network = Hypernetwork.empty(sizes, spec)
    # 34,412,288 with the biases that heads of z-scores do not have; by the reference code
    bias = 8 * (4096 + 4096)
    assert spec.num_parameters == 3_407_872
    assert abs(network.num_parameters + bias - 34_412_288) < 0.01 * 34_412_288
    assert config.hypernet.head == "shared" and config.objective.target == "zscore"
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.warmup, optimizer.schedule) == (1e-3, 0.1, "linear")
    assert (optimizer.weight_decay, optimizer.max_grad_norm) == (1e-3, 1.0)
    assert (config.data.tasks_per_batch, config.data.descriptions_per_task) == (4, 128)
    assert config.run.steps == 10_000 * 120
    assert config.run.seed == 42 and config.run.select_by == "last"


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_runs_a_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction, "plot_reconstruction", lambda history, path: None)
    base = MistralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    spec = LoraSpec.from_config(base, targets=["q_proj", "v_proj"], rank=2)
    weights = LoraWeights(
        spec,
        {g.key: torch.randn(5, len(g.layers), 2, g.in_features) for g in spec.groups},
        {g.key: torch.randn(5, len(g.layers), g.out_features, 2) for g in spec.groups},
    )
    entries = [LibraryEntry(f"task {i}", (f"Do thing {i}.", f"Thing {i}.")) for i in range(5)]
    changes = ["encoder.name=hash", "run.steps=1", "run.device=cpu"]
    changes += ["hypernet.latent_size=8", "hypernet.head_in_size=8"]
    config = load_recipe(name, changes, kind=ReconstructionConfig)
    folder = reconstruct(AdapterLibrary(weights, entries), config, output_dir=tmp_path / "run")
    loaded = load_hypernet(folder)
    assert loaded.encoder.kind == ("one-hot" if name == "reconstruct-onehot" else "hash")
    assert loaded.hypernet.config.output == ("delta" if name == "reconstruct-delta" else "zscore")


def test_recipes_differ_where_their_names_say_so() -> None:
    assert len(NAMES) == 4
    configs = {name: load_recipe(name, kind=ReconstructionConfig) for name in NAMES}
    embedded = load_recipe("embedded")
    described = configs["reconstruct-embedded"]
    # So that supervised training can go on from the reconstruction.
    assert described.encoder.name == embedded.encoder.name
    sizes = embedded.hypernet.model_dump(exclude={"kind", "reads", "start_from"})
    assert described.hypernet.model_dump() == sizes
    assert configs["reconstruct-onehot"].conditioning.kind == "one-hot"
    assert configs["reconstruct-delta"].objective.target == "delta"
    assert configs["reconstruct-delta"].run == described.run
