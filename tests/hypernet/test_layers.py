"""HeadLinear on a machine without fast bfloat16 products, and its cuts."""

from __future__ import annotations

import pytest
import torch

from text_to_lora.hypernet import layers
from text_to_lora.hypernet.layers import HeadLinear, has_fast_product


def make_linear(bias: bool = True) -> HeadLinear:
    """Filled here, since the layer comes without numbers."""
    linear = HeadLinear(6, 12, bias=bias)
    for parameter in linear.parameters():
        torch.nn.init.normal_(parameter)
    return linear


@pytest.fixture
def linear() -> HeadLinear:
    return make_linear()


def test_a_cut_is_the_whole_product_cut(linear: HeadLinear) -> None:
    x = torch.randn(2, 5, 6)
    whole = torch.nn.functional.linear(x, linear.weight, linear.bias)
    cut = linear(x, rows=3, width=2)
    torch.testing.assert_close(cut, whole.unflatten(-1, (3, 4))[..., :2].flatten(-2))
    torch.testing.assert_close(linear(x), whole)


@pytest.mark.parametrize("bias", [True, False])
def test_blocks_equal_one_product_by_widened_weights(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = make_linear(bias).to(torch.bfloat16)
    monkeypatch.setattr(layers, "has_fast_product", lambda *_: False)
    monkeypatch.setattr(layers, "_BLOCK", 5)  # 5 + 5 + 2 columns
    x = torch.randn(7, 6)
    with torch.no_grad():
        widened = torch.nn.functional.linear(
            x, linear.weight.float(), None if linear.bias is None else linear.bias.float()
        )
        assert torch.equal(linear(x), widened.to(torch.bfloat16))


def test_blocks_let_gradients_through(linear: HeadLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    linear.to(torch.bfloat16)
    monkeypatch.setattr(layers, "has_fast_product", lambda *_: False)
    monkeypatch.setattr(layers, "_BLOCK", 5)
    x = torch.randn(7, 6, requires_grad=True)
    linear(x).float().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, linear.weight.float().sum(0).expand(7, -1))
    assert torch.equal(linear.bias.grad, torch.full((12,), 7.0, dtype=torch.bfloat16))


def test_bfloat16_is_fast_on_a_cpu_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for flag in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda flag=flag: flag)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert has_fast_product(torch.bfloat16, cpu) is flag
        assert has_fast_product(torch.float32, cpu)
        assert has_fast_product(torch.bfloat16, torch.device("cuda"))
        assert not has_fast_product(torch.float16, cpu)


def test_a_product_in_bfloat16_leaves_weights_and_gradients_in_float32() -> None:
    layer = HeadLinear(16, 24)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(3, 16, generator=generator)
    exact = layer(x)
    layer.compute_dtype = torch.bfloat16
    rounded = layer(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.1)  # 8 bits
    rounded.sum().backward()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
