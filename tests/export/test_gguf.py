"""GGUF exports: names, the order of rows, the scale, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import PreTrainedConfig

from text_to_lora.errors import SpecError
from text_to_lora.export.gguf import write_adapter
from tiny_exports import make_weights

# Tensor of llama.cpp for each module.
TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def rotary_rows(num_rows: int, num_heads: int) -> list[int]:
    """Row of transformers' Llama in each row of llama.cpp's: pair by pair, head by head."""
    width = num_rows // num_heads
    return [
        head * width + side * width // 2 + pair
        for head in range(num_heads)
        for pair in range(width // 2)
        for side in (0, 1)
    ]


def read_deltas(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """ΔW of every tensor, as llama.cpp computes it."""
    reader = GGUFReader(file)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    factors = {str(tensor.name): np.array(tensor.data) for tensor in reader.tensors}
    deltas = {}
    for name in {name.rpartition(".")[0] for name in factors}:
        a, b = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        deltas[name] = alpha / b.shape[1] * b @ a
    return deltas


def test_delta_w_is_that_of_the_adapter_in_the_order_of_llama_cpp(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(config)
    deltas = read_deltas(write_adapter(weights, tmp_path / "a.gguf", config))
    text = config.get_text_config()
    heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}
    expected = {}
    for group in weights.spec.groups:
        for index, layer in enumerate(group.layers):
            delta = weights.delta(group.key)[0, index]
            if text.model_type in ("llama", "mistral") and group.module in heads:
                delta = delta[rotary_rows(len(delta), heads[group.module])]
            expected[f"blk.{layer}.{TENSORS[group.module]}.weight"] = delta
    assert sorted(deltas) == sorted(expected)
    for name, delta in expected.items():
        np.testing.assert_allclose(deltas[name], delta.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_header_says_what_llama_cpp_asks_for(config: PreTrainedConfig, tmp_path: Path) -> None:
    file = write_adapter(make_weights(config), tmp_path / "a.gguf", config)
    fields = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    family = config.model_type
    architecture = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == architecture
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 6.0


def test_equal_adapters_give_equal_bytes(llama_config: PreTrainedConfig, tmp_path: Path) -> None:
    weights = make_weights(llama_config)
    files = [write_adapter(weights, tmp_path / name, llama_config) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_bfloat16_adapter_is_written_in_float32_without_loss(
    llama_config: PreTrainedConfig, tmp_path: Path
) -> None:
    weights = make_weights(llama_config, rslora=False, alpha=12.0).to(dtype=torch.bfloat16)
    file = write_adapter(weights, tmp_path / "a.gguf", llama_config)
    tensor = {tensor.name: tensor for tensor in GGUFReader(file).tensors}[
        "blk.1.attn_v.weight.lora_b"
    ]
    assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    np.testing.assert_array_equal(
        tensor.data, (2 * weights.b["self_attn.v_proj"][0, 1].float()).numpy()
    )


def test_a_module_without_a_tensor_is_refused_by_its_name(
    llama_config: PreTrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = gguf.TensorNameMap.get_name

    def get_name(self: Any, key: str) -> str | None:
        return None if key.endswith("o_proj") else names(self, key)

    monkeypatch.setattr(gguf.TensorNameMap, "get_name", get_name)
    message = (
        "llama.cpp has no tensor for self_attn.o_proj in a base of type 'llama'; leave these "
        "modules out of the adapter"
    )
    with pytest.raises(SpecError, match=message):
        write_adapter(make_weights(llama_config), tmp_path / "a.gguf", llama_config)
    assert not list(tmp_path.iterdir())
