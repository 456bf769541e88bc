"""Hypernetwork folders: what comes back, equal bytes, and every damage named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from text_to_lora.encoders.config import EncoderConfig
from text_to_lora.errors import CheckpointError, ConfigError
from text_to_lora.hypernet import Hypernetwork, load_hypernet, save_hypernet
from text_to_lora.lora import LoraSpec

Build = Callable[..., Hypernetwork]

NORM = "backbone.mlp3.0.weight"


@pytest.fixture
def folder(tmp_path: Path, trained: Build, spec: LoraSpec, encoder: EncoderConfig) -> Path:
    """A saved shared head, in fp32."""
    hypernet = trained("shared", spec)
    return save_hypernet(tmp_path / "hypernet", hypernet, encoder, training={"steps": 3})


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of config.json; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("output", ["direct", "zscore", "delta"])
def test_a_folder_gives_the_same_adapters_back(
    output: str,
    head: str,
    trained: Build,
    spec: LoraSpec,
    encoder: EncoderConfig,
    embeddings: Tensor,
    tmp_path: Path,
) -> None:
    hypernet = trained(head, spec, output=output)
    save_hypernet(tmp_path / "one", hypernet, encoder, training={"steps": 3})
    loaded = load_hypernet(tmp_path / "one")
    assert loaded.hypernet.config == hypernet.config
    assert loaded.hypernet.spec == spec
    assert (loaded.encoder, loaded.training) == (encoder, {"steps": 3})
    assert not loaded.hypernet.training
    with torch.no_grad():
        ours, again = hypernet(embeddings), loaded.hypernet(embeddings)
    for key in ours.a:
        assert torch.equal(ours.a[key], again.a[key])
        assert torch.equal(ours.b[key], again.b[key])
    loaded.hypernet(embeddings).a[key].sum().backward()  # it can be trained further
    assert all(parameter.requires_grad for parameter in loaded.hypernet.parameters())


def test_bfloat16_halves_the_file_and_loads_in_either_dtype(
    folder: Path, trained: Build, spec: LoraSpec, encoder: EncoderConfig, tmp_path: Path
) -> None:
    hypernet = trained("shared", spec)
    small = save_hypernet(tmp_path / "small", hypernet, encoder, training={}, dtype=torch.bfloat16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (small, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    narrow, widened = load_hypernet(small, dtype=None), load_hypernet(small)
    assert (narrow.hypernet.dtype, widened.hypernet.dtype) == (torch.bfloat16, torch.float32)
    for name, tensor in hypernet.state_dict().items():
        assert torch.equal(widened.hypernet.state_dict()[name], tensor.bfloat16().float())


def test_fingerprint_changes_with_either_file(folder: Path) -> None:
    prints = [load_hypernet(folder).fingerprint]
    edit_config(folder, training={"steps": 4})
    prints.append(load_hypernet(folder).fingerprint)
    edit_tensors(folder, lambda tensors: tensors[NORM].add_(1))
    prints.append(load_hypernet(folder).fingerprint)
    assert len(set(prints)) == 3


def test_folders_that_are_no_hypernetwork_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'.*/nowhere' is not a folder"):
        load_hypernet(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no config.json; give the folder"):
        load_hypernet(tmp_path)
    (tmp_path / "hypermod.pt").touch()
    with pytest.raises(CheckpointError, match=r"reference implementation: run t2l convert"):
        load_hypernet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON: line 1"):
        load_hypernet(tmp_path)


def test_what_cannot_be_saved_is_named_and_leaves_nothing(
    tmp_path: Path, trained: Build, spec: LoraSpec, encoder: EncoderConfig
) -> None:
    hypernet, path = trained("shared", spec), tmp_path / "new"

    def save(**changes: Any) -> None:
        save_hypernet(path, hypernet, encoder, **{"training": {}} | changes)

    with pytest.raises(ConfigError, match=r"dtype of the file is torch.float16; one of float32"):
        save(dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"training: .* not JSON serializable; give JSON values"):
        save(training={"folder": tmp_path})
    hypernet.get_parameter(NORM).data[0] = float("nan")
    with pytest.raises(ConfigError, match=f"NaN or infinity in {NORM}"):
        save()
    wide = replace(encoder, embedding_dim=33)
    with pytest.raises(ConfigError, match="gives 33 numbers, the hypernetwork reads 32"):
        save_hypernet(path, hypernet, wide, training={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NORM), f"missing {NORM}"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({NORM: t[NORM][:4].clone()}), f"wrong shape of {NORM} (4,), not (16,)"),
        (lambda t: t.update({NORM: t[NORM].half()}), f"wrong dtype, not float32: {NORM} float16"),
        (lambda t: t[NORM].fill_(float("nan")), f"NaN or infinity in {NORM}"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert f"does not fit its config.json: {message}; copy or down" in str(caught.value)
    assert str(folder / "model.safetensors") in str(caught.value)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is truncated or corrupt"):
        load_hypernet(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "has format 'other'; 'text-to-lora hypernetwork' is expected"),
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"colour": 1}, "unknown fields ['colour']"),
        ({"encoder": None}, "missing fields ['encoder']"),
        ({"dtype": "float64"}, "has dtype 'float64'; one of float32, bfloat16"),
        ({"dtype": ["float32"]}, "dtype is ['float32']; a text is needed"),
        ({"encoder": True}, "encoder is True; an object is needed"),
        ({"training": []}, "training is []; an object is needed"),
        ({"spec": []}, "spec is []; an object is needed"),
        ({"encoder": {}}, "encoder: missing fields"),
        ({"hypernet.depth": 3}, "unknown fields ['depth']"),
        ({"hypernet.head": "L"}, "head is 'L'"),
        ({"hypernet.embedding_dim": 33}, "encoder gives 32 numbers, the network reads 33"),
        ({"hypernet.latent_size": 4 * 10**30}, "has sizes that no network can have"),
        ({"spec.rank": 0}, "rank is 0"),
        ({"encoder.norm": "big"}, "norm is 'big'"),
    ],
)
def test_configs_that_do_not_fit_say_what_is_wrong(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    ((name, value),) = changes.items()
    part, _, field = name.partition(".")
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, **{part: config[part] | {field: value} if field else value})
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)


def test_bytes_are_equal_under_any_hash_seed(tmp_path: Path) -> None:
    code = """
import sys, torch
from transformers import Qwen2MoeConfig
from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import LoraSpec, save_adapter
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
base = Qwen2MoeConfig(vocab_size=9, num_experts=2, moe_intermediate_size=4, **sizes)
spec = LoraSpec.from_config(base, targets="all-linear", rank=2, name="base")
config = HypernetConfig(head="rank", embedding_dim=32, latent_size=8, head_in_size=8)
hypernet = Hypernetwork.from_config(config, spec, torch.Generator().manual_seed(0))
encoder = load_encoder("hash")
save_hypernet(sys.argv[1] + "/hypernet", hypernet, encoder.config, training={"b": 1, "a": 2})
adapter = hypernet.eval()(encoder.encode(["Say yes"])).detach()
save_adapter(adapter, sys.argv[1] + "/adapter", provenance={"spec": spec.to_dict()})
"""
    contents = []
    for seed in ("0", "77"):
        folder = tmp_path / seed
        command = [sys.executable, "-c", code, str(folder)]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        assert len(files) == 5
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]
