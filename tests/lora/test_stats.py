"""Norms and cosines against the ΔW that they avoid forming."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from text_to_lora.lora import LoraSpec, delta_cosines, delta_errors, delta_norms


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


def test_errors_are_those_of_whole_deltas(kit: Any, llama_spec: LoraSpec) -> None:
    both = kit.weights(llama_spec, adapters=4)
    others, wanted = both.select([0, 1, 2]), both.select([3, 1, 0])
    flat = [torch.cat([w.delta(k).double().flatten(1) for k in w.a], 1) for w in (others, wanted)]
    expected = (flat[0] - flat[1]).norm(dim=1) / flat[1].norm(dim=1)
    errors = delta_errors(others, wanted)
    torch.testing.assert_close(errors, expected, rtol=1e-5, atol=1e-7)
    assert errors[1] == 0
    zero = wanted.scale(0.0)
    assert delta_errors(zero, wanted).tolist() == pytest.approx([1.0] * 3)
    assert delta_errors(wanted, zero).isinf().all() and not delta_errors(zero, zero).any()


def test_zero_adapter_has_no_direction(kit: Any, llama_spec: LoraSpec) -> None:
    weights = kit.weights(llama_spec, adapters=2).scale(torch.tensor([0.0, 1.0]))
    assert delta_cosines(weights)[0].tolist() == [0.0, 0.0]
