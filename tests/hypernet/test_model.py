"""Hypernetwork: gradients, dropout, dtypes, autocast, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from text_to_lora.errors import SpecError
from text_to_lora.hypernet import Hypernetwork
from text_to_lora.hypernet import layers as layers_module
from text_to_lora.lora import LoraSpec, LoraWeights

Build = Callable[..., Hypernetwork]


def flat(weights: LoraWeights) -> Tensor:
    return torch.cat([t.flatten() for t in (*weights.a.values(), *weights.b.values())])


@pytest.mark.parametrize("output", ["direct", "zscore", "delta"])
def test_gradients_reach_every_row_of_every_parameter(
    output: str, head: str, trained: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    hypernet = trained(head, spec, output=output).train()
    predicted = flat(hypernet(embeddings))
    (predicted * torch.linspace(-1, 1, len(predicted))).sum().backward()
    for name, parameter in hypernet.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.flatten(1).any(1).all() if parameter.ndim > 1 else True, name
        assert parameter.grad.any(), name


def test_gradients_equal_finite_differences(
    head: str, trained: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    for output in ("zscore", "delta"):  # the outputs that write in place
        hypernet = trained(head, spec, output=output).double()
        factor = torch.linspace(-1, 1, flat(hypernet(embeddings)).numel(), dtype=torch.float64)
        weight = hypernet.backbone.get_parameter("mlp3.4.weight")
        (gradient,) = torch.autograd.grad((flat(hypernet(embeddings)) * factor).sum(), weight)
        step = 1e-6 * torch.randn(weight.shape, dtype=torch.float64)
        with torch.no_grad():
            weight += step
            above = (flat(hypernet(embeddings)) * factor).sum()
            weight -= 2 * step
            below = (flat(hypernet(embeddings)) * factor).sum()
        torch.testing.assert_close((above - below) / 2, (gradient * step).sum(), rtol=1e-5, atol=0)


def test_at_the_start_the_heads_learn_first(
    head: str, fresh: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    """Zero weights let no gradient through to the backbone, but get one themselves."""
    hypernet = fresh(head, spec)
    flat(hypernet(embeddings)).square().sum().backward()
    assert not any(p.grad.any() for p in hypernet.backbone.parameters() if p.grad is not None)
    assert any(p.grad.any() for p in hypernet.head.parameters() if p.grad is not None)


def test_dropout_acts_in_training_only(
    head: str, trained: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    hypernet = trained(head, spec, dropout=0.4)
    with torch.no_grad():
        calm = flat(hypernet(embeddings))
        assert torch.equal(calm, flat(hypernet(embeddings)))
        hypernet.train()
        noisy = flat(hypernet(embeddings))
        assert not torch.allclose(noisy, flat(hypernet(embeddings)))
        assert not torch.allclose(noisy, calm)
        same_weights = trained(head, spec, dropout=0.0).train()
        torch.testing.assert_close(flat(same_weights(embeddings)), calm)


def test_autocast_changes_nothing(
    head: str, trained: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    hypernet = trained(head, spec)
    with torch.no_grad():
        plain = hypernet(embeddings)
        with torch.autocast("cpu", torch.bfloat16):
            cast = hypernet(embeddings)
    assert cast.dtype == torch.float32
    assert torch.equal(flat(cast), flat(plain))


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_weights_give_nearly_the_same_adapters(
    fast: bool,
    head: str,
    trained: Build,
    spec: LoraSpec,
    embeddings: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On machines with and without bfloat16 products; the backbone stays in fp32."""
    monkeypatch.setattr(layers_module, "has_fast_product", lambda *_: fast)
    hypernet = trained(head, spec)
    with torch.no_grad():
        exact = flat(hypernet(embeddings))
        rounded = hypernet.to(torch.bfloat16)(embeddings)
    assert rounded.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: weights, inputs of the last product and result are each off by 0.4%
    assert (flat(rounded).float() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("shape", [(32,), (2, 31), (1, 2, 32)])
def test_embeddings_of_another_width_are_refused(
    shape: tuple[int, ...], fresh: Build, spec: LoraSpec
) -> None:
    with pytest.raises(SpecError, match=r"\[tasks, 32\] is needed") as caught:
        fresh("joint", spec)(torch.zeros(shape))
    assert str(shape) in str(caught.value)
