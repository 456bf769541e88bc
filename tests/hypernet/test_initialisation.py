"""Bias-HyperInit: at step 0 all tasks and layers share one fresh LoRA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import LoraSpec, LoraWeights, adapted

Build = Callable[..., Hypernetwork]


def at_start(hypernet: Hypernetwork, embeddings: Tensor) -> LoraWeights:
    with torch.no_grad():
        return hypernet(embeddings)


def assert_uniform(values: Tensor, bound: float) -> None:
    """Within the bound, and spread as a uniform distribution is."""
    assert values.abs().max() <= bound
    tolerance = 4 / math.sqrt(values.numel())  # four standard errors, roughly
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=tolerance)
    assert values.mean().abs() < 4 * bound / math.sqrt(3 * values.numel())


def test_all_tasks_and_all_layers_of_a_group_start_alike(
    head: str, fresh: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    weights = at_start(fresh(head, spec), embeddings)
    for factors in (*weights.a.values(), *weights.b.values()):
        torch.testing.assert_close(factors, factors[:1, :1].expand_as(factors), rtol=0, atol=0)


# peft 0.21 asks transformers 5.23 for a property that it deprecates
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_joint_head_starts_as_a_fresh_lora_of_peft() -> None:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    spec = LoraSpec.from_config(config, targets=["q_proj", "v_proj"], rank=8)
    hypernet = Hypernetwork.from_config(HypernetConfig(head="joint", embedding_dim=16), spec)
    weights = at_start(hypernet, torch.randn(1, 16))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        plain = model(ids).logits
        with adapted(model, weights):
            torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=0)

    lora = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    theirs = torch.cat([p.flatten() for n, p in lora.named_parameters() if "lora_A" in n])
    for a in weights.a.values():
        assert_uniform(a[0, 0], 1 / 8)  # 1 / sqrt(in)
    assert_uniform(theirs, 1 / 8)
    assert not any(b.any() for b in weights.b.values())


@pytest.mark.parametrize(("head", "rows"), [("shared", 1), ("rank", 3)])
def test_shared_and_rank_heads_start_smaller_so_that_gradients_match(
    head: str, rows: int, fresh: Build, spec: LoraSpec, embeddings: Tensor
) -> None:
    """Bias A0 / sqrt(2), and for S each row A0[0] / sqrt(2 rank); out > in works as well."""
    weights = at_start(fresh(head, spec), embeddings)
    assert any(g.out_features > g.in_features for g in spec.groups)
    assert any(g.out_features < g.in_features for g in spec.groups)
    for group in spec.groups:
        bound = 1 / math.sqrt(2 * rows * group.in_features)
        a, b = weights.a[group.key][0, 0], weights.b[group.key][0, 0].mT
        narrow = min(group.in_features, group.out_features)
        # one bias serves both: B's rows are A's where both have columns
        torch.testing.assert_close(a[:, :narrow], b[:, :narrow], rtol=0, atol=0)
        wide = a if group.in_features > group.out_features else b
        assert 0.7 * bound < wide.abs().max() <= bound
        assert wide[:, narrow:].abs().min() > 0
        if head == "rank":
            assert all(torch.equal(row, wide[0]) for row in wide)


@pytest.mark.parametrize(("head", "rows"), [("shared", 1), ("rank", 8)])
def test_bias_of_wide_shared_heads_is_uniform(head: Any, rows: int) -> None:
    config = LlamaConfig(hidden_size=512, num_hidden_layers=1, num_attention_heads=8)
    spec = LoraSpec.from_config(config, targets=["q_proj"], rank=8)
    hypernet = Hypernetwork.from_config(
        HypernetConfig(head=head, embedding_dim=8), spec, torch.Generator().manual_seed(3)
    )
    (bias,) = (p for n, p in hypernet.head.linears.named_parameters() if n.endswith("bias"))
    assert_uniform(bias.detach(), 1 / math.sqrt(2 * rows * 512))


def test_reconstruction_outputs_start_with_torchs_default(head: str, spec: LoraSpec) -> None:
    config = HypernetConfig(head=head, embedding_dim=8, output="delta")  # type: ignore[arg-type]
    for name, parameter in Hypernetwork.from_config(config, spec).head.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2 and "encoder" not in name:
            assert 0.9 / math.sqrt(512) < parameter.abs().max() <= 1 / math.sqrt(512)


def test_draws_depend_on_the_generator_alone(head: str, spec: LoraSpec) -> None:
    config = HypernetConfig(head=head, embedding_dim=8)  # type: ignore[arg-type]

    def build(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return Hypernetwork.from_config(config, spec, generator).state_dict()

    torch.manual_seed(1)
    first = build(5)
    torch.manual_seed(2)
    again, other = build(5), build(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
