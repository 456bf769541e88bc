"""Hypernetwork folders: what comes back, equal bytes, and every damage named."""

from __future__ import annotations

import json
import os
import pickle
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
from text_to_lora.files import file_hash
from text_to_lora.hypernet import Hypernetwork, checkpoint, load_hypernet, save_hypernet
from text_to_lora.lora import LoraSpec

Build = Callable[..., Hypernetwork]

SRC = Path(__file__).parents[2] / "src"
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


def test_the_base_is_known_by_name_revision_and_configuration_hash(folder: Path) -> None:
    base = json.loads((folder / "config.json").read_text())["spec"]["base"]
    expected = {"name": "owner/base", "revision": "abc123", "config_hash": "0" * 64}
    assert base == expected | {"model_type": "llama"}
    assert load_hypernet(folder).hypernet.spec.base.revision == "abc123"


def test_bfloat16_halves_the_file_and_loads_in_either_dtype(
    folder: Path, trained: Build, spec: LoraSpec, encoder: EncoderConfig, tmp_path: Path
) -> None:
    hypernet = trained("shared", spec)
    small = save_hypernet(tmp_path / "small", hypernet, encoder, training={}, dtype=torch.bfloat16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (small, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    kept, widened = load_hypernet(small, dtype=None), load_hypernet(small)
    assert (kept.hypernet.dtype, widened.hypernet.dtype) == (torch.bfloat16, torch.float32)
    for name, tensor in hypernet.state_dict().items():
        assert torch.equal(widened.hypernet.state_dict()[name], tensor.bfloat16().float())


def test_fingerprint_changes_with_either_file(folder: Path) -> None:
    prints = [load_hypernet(folder).fingerprint]
    edit_config(folder, training={"steps": 4})
    prints.append(load_hypernet(folder).fingerprint)
    edit_tensors(folder, lambda tensors: tensors[NORM].add_(1))
    prints.append(load_hypernet(folder).fingerprint)
    assert len(set(prints)) == 3


def test_bytes_are_equal_across_processes(tmp_path: Path) -> None:
    code = """
import sys, torch
from text_to_lora.encoders import load_encoder
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups
names = {"q_proj", "v_proj", "k_proj", "o_proj"}  # a set, whose order the hash seed decides
slots = [Slot(layer, f"self_attn.{name}", 8, 12) for name in names for layer in (0, 1)]
base = BaseModelRef("base", None, "0" * 64, "llama")
spec = LoraSpec(base, "model.layers", 2, 2, 4.0, False, tuple(make_groups(slots)))
config = HypernetConfig(head="rank", embedding_dim=32, latent_size=8, head_in_size=8)
hypernet = Hypernetwork.from_config(config, spec, torch.Generator().manual_seed(0))
training = dict.fromkeys(sorted(names), 1)
save_hypernet(sys.argv[1], hypernet, load_encoder("hash").config, training=training)
"""
    hashes = set()
    for seed in ("0", "1", "77"):
        path = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(SRC)}
        subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True)
        hashes.add(tuple(file_hash(file) for file in sorted(path.iterdir())))
    assert len(hashes) == 1


DAMAGED_TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop(NORM), f"missing {NORM}"),
    "extra": (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
    "reshaped": (
        lambda t: t.update({NORM: t[NORM][:4].clone()}),
        f"wrong shape of {NORM} (4,), not (16,)",
    ),
    "dtype": (
        lambda t: t.update({NORM: t[NORM].half()}),
        f"wrong dtype, not float32: {NORM} float16",
    ),
    "nan": (lambda t: t[NORM].fill_(float("nan")), f"NaN or infinity in {NORM}"),
    "infinity": (lambda t: t[NORM][0].fill_(float("inf")), f"NaN or infinity in {NORM}"),
    "several": (
        lambda t: (t.pop(NORM), t.update(extra=torch.zeros(1))),
        f"missing {NORM}; unexpected extra",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_TENSORS)
def test_tensors_that_do_not_fit_are_named(folder: Path, damage: str) -> None:
    change, message = DAMAGED_TENSORS[damage]
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert message in str(caught.value)
    assert str(folder / "model.safetensors") in str(caught.value)


DAMAGED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "other"}, "has format 'other'; 'text-to-lora hypernetwork' is expected"),
    "version": ({"version": 2}, "has version 2; this release reads 1"),
    "unknown field": ({"colour": 1}, "wrong fields: unknown colour"),
    "missing field": ({"encoder": None}, "wrong fields: missing encoder"),
    "dtype": ({"dtype": "float64"}, "has dtype 'float64'; one of float32, bfloat16"),
    "dtype of another type": ({"dtype": ["float32"]}, "has dtype ['float32']; one of float32"),
    "encoder of another type": ({"encoder": True}, "encoder is True; an object is needed"),
    "training": ({"training": []}, "training is not an object"),
    "spec": ({"spec": []}, "spec is a list; an object is needed"),
    "encoder": ({"encoder": {}}, "encoder: missing fields"),
    "hypernet": ({"hypernet": {"head": "joint"}}, "hypernet: missing fields"),
}


@pytest.mark.parametrize("damage", DAMAGED_CONFIGS)
def test_configs_that_do_not_fit_say_what_is_wrong(folder: Path, damage: str) -> None:
    changes, message = DAMAGED_CONFIGS[damage]
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert message in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("hypernet", {"depth": 3}, "unknown fields ['depth']"),
        ("hypernet", {"head": "L"}, "head is 'L'"),
        ("hypernet", {"embedding_dim": 33}, "encoder gives 32 numbers, the network reads 33"),
        ("hypernet", {"latent_size": 4 * 10**30}, "has sizes that no network can have"),
        ("spec", {"rank": 0}, "rank is 0"),
        ("spec", {"colour": 1}, "unknown colour"),
        ("encoder", {"norm": "big"}, "norm is 'big'"),
    ],
)
def test_fields_deep_in_the_config_are_checked(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, **{part: config[part] | changes})
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert message in str(caught.value)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pickle_it(file: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": 1}))


def torch_save(file: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, file)


def rename_to_pickle(file: Path) -> None:
    file.rename(file.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated or corrupt"),
        (empty, "is truncated or corrupt"),
        (pickle_it, "is a pickle named safetensors, which can run code and is not read"),
        (torch_save, "is a pickle named safetensors, which can run code and is not read"),
        (rename_to_pickle, "holds pytorch_model.bin, a pickle, which can run code and is not read"),
        (Path.unlink, "holds no model.safetensors"),
    ],
)
def test_files_that_are_no_safetensors_are_refused(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_hypernet(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


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


def test_an_existing_folder_stays_until_the_new_one_is_whole(
    folder: Path,
    trained: Build,
    spec: LoraSpec,
    encoder: EncoderConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = load_hypernet(folder).fingerprint
    other = trained("joint", spec)
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        save_hypernet(folder, other, encoder, training={})

    def fail(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fail)
        with pytest.raises(KeyboardInterrupt):
            save_hypernet(folder, other, encoder, training={}, overwrite=True)
    assert load_hypernet(folder).fingerprint == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    save_hypernet(folder, other, encoder, training={}, overwrite=True)
    assert load_hypernet(folder).hypernet.config.head == "joint"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
