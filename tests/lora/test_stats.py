"""Norms and cosines against the ΔW that they avoid forming."""

from __future__ import annotations

from typing import Any

import torch

from text_to_lora.lora import LoraSpec, delta_cosines, delta_norms


def test_norms_are_those_of_delta(kit: Any, llama_spec: LoraSpec) -> None:
    weights = kit.weights(llama_spec, adapters=2)
    for key, norms in delta_norms(weights).items():
        expected = torch.linalg.matrix_norm(weights.delta(key).double())
        torch.testing.assert_close(norms, expected, rtol=1e-5, atol=0)


def test_cosines_are_those_of_flattened_deltas(kit: Any, llama_spec: LoraSpec) -> None:
    weights = kit.weights(llama_spec, adapters=3)
    flat = torch.cat([weights.delta(key).double().flatten(1) for key in weights.a], dim=1)
    expected = torch.nn.functional.cosine_similarity(flat[:, None], flat[None], dim=2)
    torch.testing.assert_close(delta_cosines(weights), expected, rtol=1e-5, atol=1e-6)


def test_zero_adapter_has_no_direction(kit: Any, llama_spec: LoraSpec) -> None:
    weights = kit.weights(llama_spec, adapters=2).scale(torch.tensor([0.0, 1.0]))
    assert delta_cosines(weights)[0].tolist() == [0.0, 0.0]
