"""Arrow routing against PEFT's own, and its prototypes against the singular value decomposition."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import ArrowConfig, create_arrow_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from text_to_lora.errors import ConfigError, SpecError
from text_to_lora.evaluation.conditions import Setup
from text_to_lora.evaluation.conditions.routing import Arrow, find_prototypes
from text_to_lora.library.library import AdapterLibrary
from text_to_lora.lora.peft_format import save_adapter
from text_to_lora.tasks.task import Row

IDS = torch.arange(3, 33).reshape(2, 15)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=IDS).logits
    return values


@pytest.mark.parametrize(("experts", "top_k", "temperature"), [(None, 3, 1.0), (4, 2, 0.5)])
def test_routed_logits_are_those_of_peft(
    base: PreTrainedModel,
    library: AdapterLibrary,
    tmp_path: Path,
    experts: int | None,
    top_k: int,
    temperature: float,
) -> None:
    paths = []
    for name in library.names[:experts]:
        save_adapter(library.adapter(name), tmp_path / name)
        paths.append(str(tmp_path / name))
    config = ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=5)
    expected = logits(create_arrow_model(deepcopy(base), paths, config))
    plain = logits(base)
    arrow = Arrow(library, experts=experts, top_k=top_k, temperature=temperature, seed=5)
    with arrow.on(base) as model:
        routed = logits(model)
    # PEFT sums over the experts one by one, here they are one product
    torch.testing.assert_close(routed, expected, rtol=1e-4, atol=1e-4)
    assert (routed - plain).abs().max() > 0.1
    assert torch.equal(logits(base), plain)


def test_the_base_is_clean_after_an_error(base: PreTrainedModel, library: AdapterLibrary) -> None:
    plain = logits(base)
    with pytest.raises(KeyboardInterrupt), Arrow(library).on(base):
        raise KeyboardInterrupt
    assert torch.equal(logits(base), plain)


def test_one_expert_alone_is_its_adapter(base: PreTrainedModel, library: AdapterLibrary) -> None:
    from text_to_lora.lora.apply import adapted

    with adapted(base, library.adapter(library.names[0])):
        expected = logits(base)
    with Arrow(library, experts=1, top_k=1).on(base) as model:
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_prototypes_are_first_right_singular_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(4, 12, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(4, 20, 3, generator=generator)).Q
    # well apart, so that 15 iterations are enough
    b, a = left * torch.tensor([4.0, 1.5, 0.5]), right.mT
    values = find_prototypes(a, b, seed=0)
    for expert in range(4):
        exact = torch.linalg.svd(b[expert] @ a[expert]).Vh[0]
        assert abs(float(values[expert] @ exact)) == pytest.approx(1, abs=1e-5)


def test_the_routing_is_noted_and_rows_have_no_adapter_of_their_own(
    library: AdapterLibrary, rows: list[Row]
) -> None:
    arrow = Arrow(library, experts=4)
    assert arrow.plan(rows) == [Setup()] * len(rows)
    noted = {name: arrow.about[name] for name in ("adapters", "experts", "top_k", "temperature")}
    assert noted == {"adapters": 6, "experts": 4, "top_k": 3, "temperature": 1.0}


def test_numbers_that_cannot_route_are_refused(library: AdapterLibrary) -> None:
    with pytest.raises(ConfigError, match="to 3 of 2 experts, and the library has 6 adapters"):
        Arrow(library, experts=2)
    with pytest.raises(ConfigError, match="to 3 of 9 experts, and the library has 6 adapters"):
        Arrow(library, experts=9)
    with pytest.raises(ConfigError, match=r"temperature is 0\.0; give a number above 0"):
        Arrow(library, temperature=0.0)


def test_a_library_for_another_base_is_refused(library: AdapterLibrary) -> None:
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=9,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    with pytest.raises(SpecError), Arrow(library).on(other):
        pass
