"""Adapter folders of mlx-lm: bytes, both directions, what is refused, and mlx-lm itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, PreTrainedConfig, PreTrainedModel

from text_to_lora.errors import AdapterFormatError, ConfigError, SpecError
from text_to_lora.export import mlx
from text_to_lora.export.mlx import load_mlx_adapter
from text_to_lora.lora import adapted, load_adapter, save_adapter
from text_to_lora.models.rotary import repeat_rotary_base
from tiny_exports import IDS, make_weights
from tiny_lora import make_model

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapters.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return config


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors: dict[str, Any] = load_file(folder / WEIGHTS_FILE) | changes
    remaining = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(remaining, folder / WEIGHTS_FILE)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(llama_config: PreTrainedConfig, tmp_path: Path) -> Path:
    """An adapter of mlx-lm for the tiny Llama."""
    return mlx.write_adapter(make_weights(llama_config), tmp_path / "mlx", llama_config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [None, [0]])
def test_from_mlx_to_peft_and_back_gives_the_same_bytes(
    config: PreTrainedConfig, tmp_path: Path, dtype: torch.dtype, layers: list[int] | None
) -> None:
    weights = make_weights(config, layers=layers, name="me/tiny").to(dtype=dtype)
    first = mlx.write_adapter(weights, tmp_path / "first", config)
    read = load_mlx_adapter(first, config)
    peft_folder = save_adapter(read, tmp_path / "peft", scale_safe=False)
    again = load_adapter(peft_folder, base_config=config)
    second = mlx.write_adapter(again, tmp_path / "second", config)
    assert contents(second) == contents(first)


def test_delta_w_is_kept_under_rslora(llama_config: PreTrainedConfig, folder: Path) -> None:
    weights = make_weights(llama_config)
    read = load_mlx_adapter(folder, llama_config)
    assert read.spec.scaling == pytest.approx(5.0 / 6**0.5, rel=1e-11)
    for key in weights.a:
        torch.testing.assert_close(read.delta(key), weights.delta(key))


@pytest.mark.parametrize("scale", [20.0, 0.1, 1.7, 2 / 3, 1e-3])
@pytest.mark.parametrize("rank", [1, 3, 6, 7, 8, 12, 49])
def test_a_scale_survives_the_way_through_alpha(
    llama_config: PreTrainedConfig, tmp_path: Path, scale: float, rank: int
) -> None:
    weights = make_weights(
        llama_config, targets=["q_proj"], rank=rank, alpha=scale * rank, rslora=False
    )
    folder = mlx.write_adapter(weights, tmp_path / "mlx", llama_config)
    assert read_config(folder)["lora_parameters"]["scale"] == float(f"{scale:.12g}")


def test_the_same_modules_of_the_last_layers_are_named_below_a_layer(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(llama_config, targets=["q_proj", "v_proj"], layers=[1], name="me/tiny")
    folder = mlx.write_adapter(weights, tmp_path / "mlx", llama_config)
    assert read_config(folder) == {
        "fine_tune_type": "lora",
        "lora_parameters": {
            "dropout": 0.0,
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
            "rank": 6,
            "scale": 2.04124145232,
        },
        "model": "me/tiny",
        "num_layers": 1,
    }


def test_other_slots_are_named_by_their_whole_path(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(llama_config, targets=["q_proj"], layers=[0])
    folder = mlx.write_adapter(weights, tmp_path / "mlx", llama_config)
    config = read_config(folder)
    assert config["lora_parameters"]["keys"] == ["model.layers.0.self_attn.q_proj"]
    assert config["num_layers"] == 2


def test_a_base_that_is_not_tested_is_refused_when_it_is_read(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    (tmp_path / CONFIG_FILE).write_text('{"lora_parameters": {"rank": 4, "scale": 1.0}}')
    save_file({"x": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(SpecError, match="type 'gpt2' cannot be exchanged with MLX"):
        load_mlx_adapter(tmp_path, config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rank", 0, "has rank=0; an integer above 0 is needed"),
        ("rank", True, "has rank=True; an integer above 0 is needed"),
        ("scale", -1.0, "has scale=-1.0; a number above 0 and at most 1e+06 is needed"),
        ("scale", "20", "has scale='20'; a number above 0 and at most 1e+06 is needed"),
        ("rank", 5, "wrong shape of model.layers.0.mlp.down_proj.lora_a (48, 6), not (48, 5)"),
        ("fine_tune_type", "dora", "has fine_tune_type='dora', which plain LoRA cannot represent"),
        ("fine_tune_type", "full", "has fine_tune_type='full', which plain LoRA cannot represent"),
        ("lora_parameters", None, "has lora_parameters=None; an object with rank and scale is"),
    ],
)
def test_a_wrong_configuration_is_named(
    llama_config: PreTrainedConfig, folder: Path, field: str, value: Any, message: str
) -> None:
    config = read_config(folder)
    (config["lora_parameters"] if field in ("rank", "scale") else config)[field] = value
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(AdapterFormatError) as caught:
        load_mlx_adapter(folder, llama_config)
    assert message in str(caught.value)


def test_tensors_that_are_missing_left_over_or_broken_are_named(
    llama_config: PreTrainedConfig, folder: Path
) -> None:
    name = "model.layers.1.self_attn.q_proj"
    edit_tensors(folder, **{f"{name}.lora_b": None, "lm_head.lora_a": torch.zeros(32, 6)})
    with pytest.raises(AdapterFormatError) as caught:
        load_mlx_adapter(folder, llama_config)
    assert f"missing {name}.lora_b; unexpected lm_head.lora_a; copy it again" in str(caught.value)


def test_nan_is_named_by_its_tensor(llama_config: PreTrainedConfig, folder: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.lora_b"
    edit_tensors(folder, **{name: torch.full((6, 32), torch.nan)})
    with pytest.raises(AdapterFormatError, match=f"NaN or infinity in {name}"):
        load_mlx_adapter(folder, llama_config)


def test_an_export_of_ours_may_be_overwritten_and_a_training_folder_may_not(
    llama_config: PreTrainedConfig, folder: Path
) -> None:
    weights = make_weights(llama_config)
    with pytest.raises(ConfigError, match="exists already; pass --overwrite"):
        mlx.write_adapter(weights, folder, llama_config)
    mlx.write_adapter(weights, folder, llama_config, overwrite=True)
    (folder / "0000100_adapters.safetensors").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds '0000100_adapters\.safetensors', which this"):
        mlx.write_adapter(weights, folder, llama_config, overwrite=True)


def save_base(model: PreTrainedModel, folder: Path) -> None:
    """Save a base as `t2l merge` does, with the size that mlx-lm wants at the top for Gemma 3."""
    model.save_pretrained(folder)
    repeat_rotary_base(folder)
    config: Any = model.config.get_text_config()
    content = json.loads((folder / "config.json").read_text())
    content |= {"vocab_size": config.vocab_size}
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.engines
def test_a_file_that_mlx_saves_is_read_to_the_last_bit(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    mx = pytest.importorskip(
        "mlx.core", reason="mlx is not installed: pip install 'text-to-lora[engines]'"
    )
    weights = make_weights(llama_config).to(dtype=torch.bfloat16)
    folder = mlx.write_adapter(weights, tmp_path / "mlx", llama_config)
    file = str(folder / WEIGHTS_FILE)
    tensors = mx.load(file)
    assert tensors["model.layers.0.mlp.up_proj.lora_a"].dtype == mx.bfloat16
    mx.save_safetensors(file, tensors, metadata={"format": "mlx"})
    read = load_mlx_adapter(folder, llama_config)
    for key in weights.a:
        assert torch.equal(read.a[key], weights.a[key])
        assert torch.equal(read.b[key], weights.b[key])


@pytest.mark.engines
@pytest.mark.parametrize("layers", [None, [0]])
def test_logits_of_mlx_lm_are_those_of_peft(
    config: PreTrainedConfig, tmp_path: Path, layers: list[int] | None
) -> None:
    mlx_utils = pytest.importorskip(
        "mlx_lm.utils", reason="mlx-lm is not installed: pip install 'text-to-lora[engines]'"
    )
    import mlx.core as mx
    import numpy as np
    from mlx_lm.tuner.utils import load_adapters
    from peft import PeftModel

    model = make_model(config)
    weights = make_weights(config, layers=layers)
    save_base(model, tmp_path / "base")
    mlx_folder = mlx.write_adapter(weights, tmp_path / "mlx", config)
    peft_folder = save_adapter(weights, tmp_path / "peft", scale_safe=False)
    with torch.no_grad():
        plain = model(IDS).logits
        with adapted(model, weights):
            ours = model(IDS).logits
        theirs = PeftModel.from_pretrained(model, peft_folder)(IDS).logits
    engine, _ = mlx_utils.load_model(tmp_path / "base")
    prompt = mx.array(IDS.numpy())

    def error(expected: torch.Tensor) -> float:
        logits = torch.from_numpy(np.array(engine(prompt), dtype=np.float32))
        return float((logits - expected).abs().max())

    base_error = error(plain)
    load_adapters(engine, str(mlx_folder))
    engine.eval()
    adapter_error = error(theirs)
    effect = (theirs - plain).abs().max()
    print(f"{config.model_type}: {base_error=:.2g} {adapter_error=:.2g} {effect=:.2g}")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert max(base_error, adapter_error) < 1e-3
    assert effect > 0.3
