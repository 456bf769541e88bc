"""Checkpoints of the reference implementation: its own adapters, the paper's equations, refusals.

`official/` holds three small checkpoints with adapters that the reference implementation made of
them. Variants that are not among them are written here in the form of its files, with random
numbers, and compared with the equations in `naive_hypernet`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig

from naive_hypernet import HEADS as NAIVE
from naive_hypernet import latent_code, reference_parameters, to_arrays
from text_to_lora.errors import CheckpointError, ConfigError, T2LWarning
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, load_hypernet
from text_to_lora.hypernet.official import Official, convert, read_official
from text_to_lora.lora import LoraSpec, LoraWeights, config_hash

# The fixtures' task embeddings are 24 wide, their base's hidden states 64.
pytestmark = pytest.mark.filterwarnings("ignore:args.yaml takes task embeddings:UserWarning")

FIXTURES = Path(__file__).parent / "official"
NAMES = ("sft_L_mistral", "sft_M_llama", "recon_L_mistral_zscore")
TOLERANCE = 1e-5

RANK, HIDDEN, LAYERS = 4, 32, 3
LATENT, HEAD_IN, EMBEDDING = 16, 24, 20
WIDTHS = {"q_proj": (HIDDEN, HIDDEN), "v_proj": (HIDDEN, 16), "down_proj": (40, HIDDEN)}
MODULES = ("v_proj", "down_proj", "q_proj")  # as trained: not in alphabetical order
FLAGS: dict[str, dict[str, bool]] = {
    "joint": {},
    "shared": {"shared_AB_head": True},
    "rank": {"shared_AB_head": True, "autoreg_gen": True, "learnable_pos_emb": True},
}


def expected_tensors(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Task embeddings, and the adapters that the reference made of them."""
    tensors = load_file(FIXTURES / name / "expected.safetensors")
    return tensors.pop("task_embedding"), tensors


def peft_tensors(weights: LoraWeights) -> dict[str, Tensor]:
    return {
        f"{row}.{weights.spec.peft_name(layer, group.module)}.lora_{side}.weight": factor
        for group in weights.spec.groups
        for side, factors in (("A", weights.a), ("B", weights.b))
        for row, adapter in enumerate(factors[group.key])
        for layer, factor in zip(group.layers, adapter, strict=True)
    }


def generate(official: Official, embeddings: Tensor) -> LoraWeights:
    with torch.no_grad():
        weights: LoraWeights = official.hypernet(embeddings)
    return weights


def make_base() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=61,
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )


def make_state(head: str, *, bias: bool) -> dict[str, Tensor]:
    """Random tensors under the reference's names; offsets and moments are zero."""
    spec = LoraSpec.from_config(make_base(), targets=list(WIDTHS), rank=RANK)
    config = HypernetConfig(
        head=head,  # type: ignore[arg-type]
        embedding_dim=EMBEDDING,
        latent_size=LATENT,
        head_in_size=HEAD_IN,
        output="direct" if bias else "zscore",
    )
    generator = torch.Generator().manual_seed(0)
    hypernet = Hypernetwork.from_config(config, spec, generator)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    state = {
        re.sub(r"(heads|out_emb)\.(self_attn|mlp)\.", r"\1.", name): torch.tensor(array).float()
        for name, array in reference_parameters(hypernet).items()
    }
    ours = [group.module.rpartition(".")[2] for group in spec.groups]
    types = "layer_type_encoder.0.weight"
    state[types] = state[types][[ours.index(module) for module in MODULES]]
    for kind in ("AB_offset", "mean_recon_target", "std_recon_target"):
        for module, (wide, out) in WIDTHS.items():
            state[f"{kind}.A.{module}"] = torch.zeros(LAYERS, RANK, wide)
            state[f"{kind}.B.{module}"] = torch.zeros(LAYERS, out, RANK)
    return state


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint folder in the reference's form, with its base's configuration."""

    def write_folder(head: str, state: dict[str, Tensor], **args: Any) -> Path:
        folder = tmp_path / "reference"
        (folder / "base").mkdir(parents=True)
        make_base().save_pretrained(folder / "base")
        torch.save(state, folder / "hypermod.pt")
        defaults = yaml.safe_load((FIXTURES / NAMES[0] / "args.yaml").read_text())
        # args.yaml says nothing true about widths and biases
        wrong = {"hypernet_latent_size": 999, "head_in_size": 999, "head_use_bias": False}
        settings = defaults | wrong | FLAGS[head] | {"target_modules": list(WIDTHS)} | args
        (folder / "args.yaml").write_text(yaml.safe_dump(settings))
        adapter = json.loads((FIXTURES / NAMES[0] / "adapter_config.json").read_text())
        adapter |= {"target_modules": list(WIDTHS), "r": RANK}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        return folder

    return write_folder


@pytest.fixture
def fixture(tmp_path: Path) -> Path:
    """A copy of the supervised L checkpoint that a test may damage."""
    return Path(shutil.copytree(FIXTURES / NAMES[0], tmp_path / NAMES[0]))


def edit_args(folder: Path, **changes: Any) -> None:
    file = folder / "args.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def edit_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(folder / "hypermod.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "hypermod.pt")


def error_of(folder: Path, **options: Any) -> str:
    """What reading the folder says; one line."""
    with pytest.raises(CheckpointError) as caught:
        read_official(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_adapters_are_those_of_the_reference_implementation(name: str, tmp_path: Path) -> None:
    """As they are read, and from the converted folder."""
    official = read_official(FIXTURES / name)
    assert official.module_order == ("q_proj", "v_proj")
    loaded = load_hypernet(convert(FIXTURES / name, tmp_path / "ours"))
    assert loaded.training["module_order"] == ["q_proj", "v_proj"]
    embeddings, expected = expected_tensors(name)
    for hypernet in (official.hypernet, loaded.hypernet):
        with torch.no_grad():
            tensors = peft_tensors(hypernet(embeddings))
        assert set(tensors) == set(expected)
        for tensor_name, tensor in expected.items():
            torch.testing.assert_close(tensors[tensor_name], tensor, rtol=0, atol=TOLERANCE)
    spec = loaded.hypernet.spec
    assert spec.base.name == str(FIXTURES / name / "base")
    assert spec.base.model_type == name.split("_")[2]
    if spec.base.model_type == "llama":
        assert spec.base.config_hash == config_hash(LlamaConfig.from_pretrained(spec.base.name))
    # alpha 16, rank 8, rsLoRA, as in adapter_config.json
    assert spec.scaling == pytest.approx(16 / math.sqrt(8))


VARIANTS = ("direct", "delta", "zscore", "offset")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_follows_the_papers_equations(
    variant: str, head: str, write: Callable[..., Path]
) -> None:
    """L, M and S as supervised runs, with multi-task offset, and as both reconstructions."""
    state = make_state(head, bias=variant in ("direct", "delta"))
    generator = torch.Generator().manual_seed(9)
    for name in [name for name in state if name.startswith("mean_")]:
        _, side, module = name.split(".")
        shape = state[name].shape
        if variant == "zscore":
            state[name] = torch.randn(shape, generator=generator)
            state[f"std_recon_target.{side}.{module}"] = torch.rand(shape, generator=generator)
        if variant == "offset" and side == "A":  # B's offset is zero
            state[f"AB_offset.{side}.{module}"] = torch.randn(shape, generator=generator)
    args: dict[str, Any] = {
        "direct": {},
        "offset": {"mt_lora_path": "runs/multi_task"},
        "delta": {"training_task": "recon", "factorized": False, "delta_w_scaling": 2500.0},
        "zscore": {"training_task": "recon", "factorized": True, "pred_z_score": True},
    }[variant]
    official = read_official(write(head, state, **args), module_order=MODULES)
    embeddings = torch.randn(2, EMBEDDING, generator=generator)
    weights = generate(official, embeddings)

    p = to_arrays(state)
    for group in weights.spec.groups:
        module = group.module.split(".")[-1]
        for layer in range(LAYERS):
            for row, embedding in enumerate(embeddings.double().numpy()):
                latent = latent_code(p, embedding, layer, MODULES.index(module))
                factors = NAIVE[head](p, latent, module, RANK, *WIDTHS[module])
                for side, factor in zip("AB", factors, strict=True):
                    mean, std, offset = (
                        p[f"{kind}.{side}.{module}"][layer]
                        for kind in ("mean_recon_target", "std_recon_target", "AB_offset")
                    )
                    expected = {
                        "direct": factor,
                        "delta": factor / 50,
                        "zscore": factor * (std + 1e-10) + mean,
                        "offset": factor + offset,
                    }[variant]
                    generated = (weights.a if side == "A" else weights.b)[group.key][row, layer]
                    np.testing.assert_allclose(generated, expected, rtol=1e-4, atol=TOLERANCE)


def test_module_order_is_sorted_unless_told_and_decides_the_type_embeddings(
    write: Callable[..., Path],
) -> None:
    folder = write("joint", make_state("joint", bias=True))
    embeddings = torch.randn(1, EMBEDDING)
    assert read_official(folder).module_order == ("down_proj", "q_proj", "v_proj")
    by_default = generate(read_official(folder), embeddings)
    by_name = generate(read_official(folder, module_order=sorted(WIDTHS)), embeddings)
    other = generate(read_official(folder, module_order=MODULES), embeddings)
    for key in by_default.a:
        assert torch.equal(by_default.a[key], by_name.a[key])
    key = "self_attn.v_proj"  # number 2 in one order, 0 in the other
    assert not torch.allclose(by_default.a[key], other.a[key], atol=1e-3)
    for wrong in (["q_proj"], ["q_proj", "v_proj", "k_proj"], ["q_proj", "q_proj", "v_proj"]):
        with pytest.raises(ConfigError, match="each of down_proj, q_proj, v_proj once"):
            read_official(folder, module_order=wrong)


def test_text_settings_of_the_reference_come_along(write: Callable[..., Path]) -> None:
    name = "Alibaba-NLP/gte-large-en-v1.5"
    folder = write("joint", make_state("joint", bias=True), emb_model=name)
    encoder = load_hypernet(convert(folder, folder.parent / "ours")).encoder
    assert (encoder.kind, encoder.name, encoder.pooling) == ("gte", name, "cls")
    assert encoder.add_full_stop and not encoder.prefix
    assert encoder.norm == pytest.approx(math.sqrt(EMBEDDING))
    assert encoder.max_tokens == 8192

    edit_args(folder, emb_model="Salesforce/SFR-Embedding-2_R")
    encoder = convert_encoder(folder)
    assert (encoder.kind, encoder.pooling) == ("language-model", "last")
    assert encoder.prefix == "Instruct: Retrieve semantically similar text.\nQuery: "

    edit_args(folder, emb_model="")  # the base model itself
    with pytest.warns(T2LWarning, match="hidden states are 32 wide; the weights read 20"):
        encoder = convert_encoder(folder)
    assert (encoder.kind, encoder.pooling) == ("language-model", "last")
    assert encoder.name == str(folder / "base")
    assert encoder.add_full_stop

    edit_args(folder, emb_model="someone/other")
    assert "text encoder 'someone/other' is none that the reference uses" in error_of(folder)


def convert_encoder(folder: Path) -> Any:
    return load_hypernet(convert(folder, folder.parent / "ours", overwrite=True)).encoder


def test_one_hot_task_codes_are_read_but_not_converted(write: Callable[..., Path]) -> None:
    folder = write("joint", make_state("joint", bias=True), use_one_hot_task_emb=True)
    assert read_official(folder).encoder is None
    with pytest.raises(CheckpointError, match="one-hot task codes: no description leads to"):
        convert(folder, folder.parent / "ours")
    assert not (folder.parent / "ours").exists()


def test_options_may_lie_in_the_run_folder_above_the_checkpoint(fixture: Path) -> None:
    step = fixture / "checkpoints" / "it_100"
    step.mkdir(parents=True)
    (fixture / "hypermod.pt").rename(step / "hypermod.pt")
    embeddings, expected = expected_tensors(NAMES[0])
    assert set(peft_tensors(generate(read_official(step), embeddings))) == set(expected)


def test_base_is_what_is_given_else_what_is_named(fixture: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (fixture / "base").rename(elsewhere)
    edit_args(fixture, model_dir="models/not/here")
    message = error_of(fixture)
    assert "cannot read the configuration of base model 'models/not/here'" in message
    assert "give the base model (--base)" in message
    assert read_official(fixture, base=elsewhere).hypernet.spec.base.name == str(elsewhere)
    assert "wrong shape of " in error_of(fixture, base=FIXTURES / NAMES[1] / "base")
    edit_args(fixture, model_dir=None)
    adapter = fixture / "adapter_config.json"
    adapter.write_text(
        json.dumps(json.loads(adapter.read_text()) | {"base_model_name_or_path": ""})
    )
    assert "the checkpoint names no base model; give the base model (--base)" in error_of(fixture)
    (elsewhere / "config.json").unlink()
    message = error_of(fixture, base=str(elsewhere))
    assert f"{str(elsewhere)!r} holds no config.json" in message
    (elsewhere / "config.json").write_text("{}")
    assert "cannot read the configuration" in error_of(fixture, base=str(elsewhere))


def test_base_of_the_hub_is_known_by_its_commit(
    fixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshots" / "c0ffee"
    shutil.copytree(fixture / "base", snapshot)
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        return str(snapshot / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    base = read_official(fixture, base="owner/base").hypernet.spec.base
    assert (base.name, base.revision) == ("owner/base", "c0ffee")
    assert asked == [("owner/base", "config.json")]  # and never its weights


class Bomb:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    zipped: bool, fixture: Path, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    torch.save(
        {"mixer.1.weight": Bomb(target)},
        fixture / "hypermod.pt",
        _use_new_zipfile_serialization=zipped,
    )
    message = error_of(fixture)
    assert "holds more than tensors" in message and "nothing of it was run" in message
    assert not target.exists()
    with pytest.raises(CheckpointError):
        convert(fixture, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def edit_adapter(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


RECON = {"training_task": "recon"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_task": None}, "training_task is None; read is sft"),
        ({"exp_setup": "vera"}, "exp_setup is 'vera'; read is hyper_lora"),
        ({"autoreg_gen": True}, "autoreg_gen is True with a head of kind"),  # rotary rank codes
        (RECON | {"delta_w_scaling": "much"}, "delta_scaling is 'much'"),
        (RECON | {"pred_z_score": True}, "pred_z_score without factorized"),
        (RECON | {"pred_z_score": True, "factorized": True}, "heads with a bias under z-scores"),
    ],
)
def test_options_that_are_not_read_are_named(
    changes: dict[str, Any], message: str, fixture: Path
) -> None:
    edit_args(fixture, **changes)
    assert message in error_of(fixture)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hypermod.pt", None, "holds no hypermod.pt"),
        ("args.yaml", None, "holds no args.yaml; copy it"),
        ("adapter_config.json", None, "holds no adapter_config.json; copy it"),
        ("args.yaml", b"a: [1", "is not plain YAML"),
        ("args.yaml", b"a: !!python/object/apply:os.getcwd []", "is not plain YAML"),
        ("args.yaml", b"\xff\xfe\x00", "is not plain YAML"),
        ("args.yaml", b"- 1\n", "holds [1]; options are expected"),
        ("args.yaml", b"", "holds None; options are expected"),
        ("adapter_config.json", b"{", "is not JSON: line 1"),
        ("hypermod.pt", b"PK\x05\x06" + bytes(18), "is damaged"),  # an empty zip archive
    ],
)
def test_files_that_cannot_be_read_are_named(
    name: str, content: bytes | None, message: str, fixture: Path
) -> None:
    if content is None:
        (fixture / name).unlink()
    else:
        (fixture / name).write_bytes(content)
    assert message in error_of(fixture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": None}, "rank is None"),
        ({"r": 4}, "wrong shape of AB_offset.A.q_proj (4, 8, 64)"),
        ({"target_modules": ["q_proj"]}, "targets ['q_proj'], the"),
        ({"layers_to_transform": [0]}, "adapts some layers only"),
    ],
)
def test_adapters_of_another_form_are_named(
    changes: dict[str, Any], message: str, fixture: Path
) -> None:
    edit_adapter(fixture, **changes)
    assert message in error_of(fixture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"mixer.1.bias": torch.ones(128).long()}), "is no state dict of float"),
        (lambda s: s.pop("mixer.1.bias"), "missing mixer.1.bias"),
        (lambda s: s.pop("mixer.1.weight"), "mixer.1.weight is missing or no matrix"),
        (lambda s: s.update(more=torch.ones(1)), "unexpected more"),
        (lambda s: s.update({"mixer.1.bias": torch.ones(7)}), "wrong shape of mixer.1.bias (7,), "),
        (lambda s: s["mixer.1.bias"].fill_(float("nan")), "NaN or infinity in mixer.1.bias"),
        (lambda s: s["AB_offset.A.q_proj"].fill_(1), "heads with a bias under z-scores or AB_off"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], object], message: str, fixture: Path
) -> None:
    edit_state(fixture, change)
    assert message in error_of(fixture)
    if "AB_off" in message:
        edit_args(fixture, training_task="recon")
        assert "AB_offset in a reconstruction run is not read" in error_of(fixture)
    torch.save([1], fixture / "hypermod.pt")
    assert "is no state dict of floating" in error_of(fixture)
    (fixture / "hypermod.pt").write_bytes((fixture / "hypermod.pt").read_bytes()[:300])
    assert "is damaged or holds more than tensors" in error_of(fixture)
