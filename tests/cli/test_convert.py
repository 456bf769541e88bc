"""`t2l convert`: a reference checkpoint becomes a folder that generates the same adapters."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig

from naive_hypernet import reference_parameters
from text_to_lora.generate import TextToLora
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet
from text_to_lora.lora import LoraSpec

OFFICIAL = Path(__file__).parents[1] / "hypernet" / "official"
NAME = "sft_M_llama"


# The fixture's task embeddings are 24 wide, its base's hidden states 64.
pytestmark = pytest.mark.filterwarnings("ignore:args.yaml takes task embeddings")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the M fixture that a test may damage."""
    return Path(shutil.copytree(OFFICIAL / NAME, tmp_path / "checkpoint"))


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, base_folder: Path) -> tuple[Path, Hypernetwork]:
    """A checkpoint in the reference's form whose text encoder is the tiny base model itself."""
    config = LlamaConfig.from_pretrained(base_folder)
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=8, rslora=True)
    sizes = HypernetConfig(head="rank", embedding_dim=32, latent_size=16, head_in_size=24)
    hypernet = Hypernetwork.from_config(sizes, spec).eval()
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    state = {
        name.replace("self_attn.", ""): torch.as_tensor(array).float()
        for name, array in reference_parameters(hypernet).items()
    }
    for group in spec.groups:
        leaf, layers = group.module.split(".")[-1], len(group.layers)
        for kind in ("AB_offset", "mean_recon_target", "std_recon_target"):
            state[f"{kind}.A.{leaf}"] = torch.zeros(layers, 8, group.in_features)
            state[f"{kind}.B.{leaf}"] = torch.zeros(layers, group.out_features, 8)
    folder = tmp_path / "tiny"
    folder.mkdir()
    torch.save(state, folder / "hypermod.pt")
    args = yaml.safe_load((OFFICIAL / NAME / "args.yaml").read_text())
    args |= {"autoreg_gen": True, "learnable_pos_emb": True, "model_dir": "models/not/here"}
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    shutil.copy(OFFICIAL / NAME / "adapter_config.json", folder)
    return folder, hypernet


def test_a_converted_folder_works_from_description_to_adapter(
    tiny_checkpoint: tuple[Path, Hypernetwork],
    base_folder: Path,
    tmp_path: Path,
    t2l: Callable[..., Any],
) -> None:
    folder, hypernet = tiny_checkpoint
    out = tmp_path / "ours"
    assert t2l("convert", folder, "-o", out, "--base", base_folder).code == 0
    facade = TextToLora.from_pretrained(out)
    # the description with "." through the base's last layer, scaled to sqrt(embedding_dim)
    embedding = facade.encode(["Answer in capitals"])
    assert torch.equal(embedding, facade.encode(["  Answer in capitals. "]))
    torch.testing.assert_close(embedding.norm(), torch.tensor(32.0).sqrt())
    with torch.no_grad():
        expected = hypernet(embedding)
    weights = facade.generate(["Answer in capitals"]).weights
    for key in expected.a:
        torch.testing.assert_close(weights.a[key], expected.a[key])
        torch.testing.assert_close(weights.b[key], expected.b[key])
    assert facade.spec == replace(
        hypernet.spec, base=replace(hypernet.spec.base, name=str(base_folder))
    )
    done = t2l("generate", "Answer in capitals", "-m", out, "-o", tmp_path / "adapter")
    assert done.code == 0
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(base_folder)


def test_module_order_is_passed_on_and_stored(
    checkpoint: Path, tmp_path: Path, t2l: Callable[..., Any]
) -> None:
    folders = [tmp_path / name for name in ("sorted", "other")]
    t2l("convert", checkpoint, "-o", folders[0])
    t2l("convert", checkpoint, "-o", folders[1], "--module-order", "v_proj, q_proj")
    default, other = (load_hypernet(folder) for folder in folders)
    assert default.training["module_order"] == ["q_proj", "v_proj"]
    assert other.training["module_order"] == ["v_proj", "q_proj"]
    name = "backbone.type_encoder.0.weight"
    rows = [loaded.hypernet.get_parameter(name) for loaded in (default, other)]
    assert torch.equal(rows[0], rows[1].flip(0))


def test_an_encoder_that_cannot_fit_is_warned_of(
    checkpoint: Path, tmp_path: Path, t2l: Callable[..., Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = t2l("convert", checkpoint, "-o", tmp_path / "ours")
    assert (done.code, done.out) == (0, f"{tmp_path / 'ours'}  converted from {checkpoint}\n")
    assert done.err.startswith("warning: args.yaml takes task embeddings from the base model")
    assert "hidden states are 64 wide; the weights read 24" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no such folder beside the checkpoint"),
        (["--base", "a/b/c"], "cannot read the configuration of base model 'a/b/c'"),
        (["--module-order", "q_proj"], "module_order is ['q_proj']; each of q_proj, v_proj"),
        (["pickle"], "nothing of it was run"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    options: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    t2l: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if options == ["pickle"]:
        (checkpoint / "hypermod.pt").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
        options = []
    elif not options:
        args = yaml.safe_load((checkpoint / "args.yaml").read_text())
        (checkpoint / "args.yaml").write_text(yaml.safe_dump(args | {"model_dir": "no/such/base"}))
        shutil.rmtree(checkpoint / "base")
    done = t2l("convert", checkpoint, "-o", tmp_path / "ours", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: ") and message in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
