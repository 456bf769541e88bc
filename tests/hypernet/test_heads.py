"""L, M and S against the paper's equations slot by slot, their sizes, and one vectorised pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig

from naive_hypernet import HEADS as NAIVE
from naive_hypernet import latent_code, reference_parameters
from text_to_lora.hypernet import HypernetConfig, Hypernetwork
from text_to_lora.lora import BaseModelRef, LoraSpec, Slot
from text_to_lora.lora.spec import make_groups

Build = Callable[..., Hypernetwork]


def naive_factors(
    hypernet: Hypernetwork, embeddings: Tensor
) -> Iterator[tuple[str, int, int, Any, Any]]:
    """(group key, adapter, position in the group, A, B), one slot of one adapter at a time."""
    p, spec = reference_parameters(hypernet), hypernet.spec
    layers = sorted({slot.layer for slot in spec.slots})
    for adapter, embedding in enumerate(embeddings.double().numpy()):
        for kind, group in enumerate(spec.groups):
            for position, layer in enumerate(group.layers):
                latent = latent_code(p, embedding, layers.index(layer), kind)
                shape = (spec.rank, group.in_features, group.out_features)
                a, b = NAIVE[hypernet.config.head](p, latent, group.key, *shape)
                yield group.key, adapter, position, a, b


@pytest.mark.parametrize("name", ["spec", "gemma4_spec"])
def test_one_pass_equals_a_loop_over_slots_and_descriptions(
    name: str, head: str, trained: Build, embeddings: Tensor, request: pytest.FixtureRequest
) -> None:
    spec: LoraSpec = request.getfixturevalue(name)
    hypernet = trained(head, spec)
    with torch.no_grad():
        weights = hypernet(embeddings)
    slots = 0
    for key, adapter, position, a, b in naive_factors(hypernet, embeddings):
        # fp32 beside float64
        np.testing.assert_allclose(weights.a[key][adapter, position], a, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(weights.b[key][adapter, position], b, rtol=1e-4, atol=1e-5)
        slots += 1
    assert slots == len(embeddings) * len(spec.slots)


@pytest.mark.parametrize(
    ("head", "parameters"), [("joint", 55_424_000), ("shared", 34_412_288), ("rank", 4_996_096)]
)
def test_sizes_for_mistral_7b_are_those_of_the_paper(head: Any, parameters: int) -> None:
    # MistralConfig's defaults are the shapes of Mistral-7B
    spec = LoraSpec.from_config(MistralConfig(), targets=["q_proj", "v_proj"], rank=8)
    hypernet = Hypernetwork.empty(HypernetConfig(head=head, embedding_dim=1024), spec)
    assert hypernet.num_parameters == parameters
    assert sum(p.numel() for p in hypernet.backbone.parameters()) == 791_552
    assert all(p.is_meta for p in hypernet.parameters())


def test_number_of_products_depends_on_neither_layers_nor_descriptions(
    head: str, fresh: Build
) -> None:
    def count_calls(layers: int, tasks: int) -> Counter[str]:
        base = BaseModelRef("base", None, "0" * 64, "llama")
        slots = [Slot(layer, f"attn.{m}", 8, 8) for layer in range(layers) for m in "qv"]
        spec = LoraSpec(base, "model.layers", layers, 2, 4.0, False, tuple(make_groups(slots)))
        hypernet, calls = fresh(head, spec), Counter[str]()
        for name, module in hypernet.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda *_, name=name: calls.update([name]))
        hypernet(torch.randn(tasks, 32))
        return calls

    assert count_calls(layers=2, tasks=1) == count_calls(layers=9, tasks=5)
