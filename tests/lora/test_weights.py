"""Batches of adapters against plain loops and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from text_to_lora.errors import SpecError
from text_to_lora.lora import LoraSpec, LoraWeights

Q = "self_attn.q_proj"


@pytest.fixture
def weights(kit: Any, llama_spec: LoraSpec) -> LoraWeights:
    return kit.weights(llama_spec, adapters=3)


def test_delta_is_scaling_times_b_a(weights: LoraWeights) -> None:
    delta = weights.delta(Q)
    for adapter in range(3):
        for slot in range(2):
            b, a = weights.b[Q][adapter, slot], weights.a[Q][adapter, slot]
            torch.testing.assert_close(delta[adapter, slot], 6.0 / 4 * b @ a)
    for rslora in (False, True):  # doubling the scaling doubles ΔW
        once, twice = (
            LoraWeights(weights.spec.with_(alpha=alpha, rslora=rslora), weights.a, weights.b)
            for alpha in (6.0, 12.0)
        )
        torch.testing.assert_close(2 * once.delta(Q), twice.delta(Q))


def test_strength_scales_delta_linearly(weights: LoraWeights) -> None:
    torch.testing.assert_close(weights.scale(0.5).delta(Q), 0.5 * weights.delta(Q))
    each = torch.tensor([0.0, 1.0, -2.0])
    torch.testing.assert_close(
        weights.scale(each).delta(Q), each[:, None, None, None] * weights.delta(Q)
    )


def test_refactor_is_the_truncated_svd_with_its_true_error(weights: LoraWeights) -> None:
    blended = weights.blend(torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]))
    low, error = blended.refactor(4)
    lost, whole = torch.zeros(2), torch.zeros(2)
    for key in blended.a:
        full = blended.delta(key)
        u, values, vh = torch.linalg.svd(full, full_matrices=False)
        nearest = (u[..., :4] * values[..., None, :4]) @ vh[..., :4, :]
        torch.testing.assert_close(low.delta(key), nearest, rtol=1e-4, atol=1e-5)
        lost += (full - low.delta(key)).square().sum(dim=(1, 2, 3))
        whole += full.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(error.float(), (lost / whole).sqrt(), rtol=1e-3, atol=1e-5)
    assert error[0] > 0.1
    assert error[1] < 1e-6  # one adapter of rank 4 fits in rank 4


def test_refactor_to_a_higher_rank_keeps_delta(weights: LoraWeights) -> None:
    # rank 40 is above both widths of k_proj-like slots; zeros fill the rest
    high, error = weights.refactor(40)
    for key in weights.a:
        torch.testing.assert_close(high.delta(key), weights.delta(key), rtol=1e-4, atol=1e-5)
    assert float(error.max()) == 0.0
    low, error = weights.scale(0.0).refactor(2)
    assert not low.delta(Q).any() and not error.any()


def test_gradient_reaches_factors_through_select_and_scale(weights: LoraWeights) -> None:
    weights.b[Q].requires_grad_()
    weights.select([1]).scale(2.0).delta(Q).sum().backward()
    gradient = weights.b[Q].grad
    assert gradient is not None
    assert gradient[1].any()
    assert not gradient[0].any()


def test_numbers_that_are_not_finite_are_located(weights: LoraWeights) -> None:
    weights.check_finite()
    weights.b["self_attn.v_proj"][2, 1, 0, 0] = torch.nan
    with pytest.raises(SpecError, match=r"B of 'self_attn.v_proj' in layer 1 of adapter 2 holds"):
        weights.check_finite()


def test_shapes_dtypes_and_groups_must_fit(weights: LoraWeights) -> None:
    spec, a, b = weights.spec, weights.a, weights.b
    with pytest.raises(SpecError, match=r"A has groups \['self_attn.q_proj'\]; the spec has"):
        LoraWeights(spec, {Q: a[Q]}, b)
    with pytest.raises(SpecError, match=r"A of 'self_attn.q_proj' is \(3, 2, 3, 32\); \(3, 2, 4"):
        LoraWeights(spec, a | {Q: a[Q][:, :, :3]}, b)
    with pytest.raises(SpecError, match=r"B of 'self_attn.q_proj' is \(1, 2, 32, 4\); \(3, 2"):
        LoraWeights(spec, a, b | {Q: b[Q][:1]})
    with pytest.raises(SpecError, match=r"torch.float16; one floating dtype"):
        LoraWeights(spec, a, b | {Q: b[Q].half()})
    with pytest.raises(SpecError, match="on meta, others on cpu"):
        LoraWeights(spec, a, b | {Q: b[Q].to("meta")})
    with pytest.raises(SpecError, match="one adapter or more"):
        LoraWeights(spec, {k: t[:0] for k, t in a.items()}, {k: t[:0] for k, t in b.items()})


def test_misfitting_blend_strength_and_stack_are_refused(kit: Any, weights: LoraWeights) -> None:
    with pytest.raises(SpecError, match=r"coefficients are \(1, 2\); \[new, 3\]"):
        weights.blend(torch.ones(1, 2))
    with pytest.raises(SpecError, match=r"strength has shape \(2,\); one number, or 3"):
        weights.scale(torch.ones(2))
    with pytest.raises(SpecError, match="nothing to stack"):
        LoraWeights.stack([])
    other = kit.weights(weights.spec.with_(rank=2))
    with pytest.raises(SpecError, match="adapter 1 has another spec"):
        LoraWeights.stack([weights, other])


def test_parts_stack_to_the_batch_and_keep_order_dtype_and_bytes(weights: LoraWeights) -> None:
    parts = weights.unbind()
    assert [part.num_adapters for part in parts] == [1, 1, 1]
    picked = weights.select([2, 0, 2])
    for batch, rows in ((LoraWeights.stack(parts), [0, 1, 2]), (picked, [2, 0, 2])):
        for key in weights.a:
            assert torch.equal(batch.a[key], weights.a[key][rows])
            assert torch.equal(batch.b[key], weights.b[key][rows])
    weights.a[Q].requires_grad_()
    assert weights.requires_grad and not weights.detach().requires_grad
    half = weights.to(dtype=torch.bfloat16)
    assert (half.dtype, half.device) == (torch.bfloat16, torch.device("cpu"))
    assert weights.num_bytes == 3 * weights.spec.num_parameters * 4 == 2 * half.num_bytes
