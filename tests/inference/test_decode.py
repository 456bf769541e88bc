"""Rows that enter and leave a running batch get the answers that `generate` gives them alone."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from text_to_lora.errors import SpecError
from text_to_lora.inference.decode import Decoder
from text_to_lora.inference.generate import generate, pad_left
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.lora.apply import adapted
from tiny_lora import Kit, family, kit, llama, llama_spec

__all__ = ["family", "kit", "llama", "llama_spec"]

Adapters = list[LoraWeights | None]

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33]]
STEPS = 8


def alone(model: PreTrainedModel, prompt: list[int], weights: LoraWeights | None) -> list[int]:
    """The tokens that `generate` gives for one prompt under one adapter."""
    ids, mask = pad_left([prompt], model.device)
    if weights is None:
        return generate(model, ids, mask, max_new_tokens=STEPS, stop_tokens=[60]).answer_ids[0]
    with adapted(model, weights):
        return generate(model, ids, mask, max_new_tokens=STEPS, stop_tokens=[60]).answer_ids[0]


def cut(ids: list[int]) -> list[int]:
    return ids[: ids.index(60)] if 60 in ids else ids


def decode(
    model: PreTrainedModel,
    spec: LoraSpec,
    plan: dict[int, list[int]],
    adapters: Adapters,
) -> list[list[int]]:
    """Add rows as the plan says, by step, and take each out when it has all its tokens."""
    decoder = Decoder(model, spec)
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    rows: list[int] = []
    step = 0
    while rows or step <= max(plan):
        if rows:
            logits = decoder.step([tokens[row][-1] for row in rows])
            for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                tokens[row].append(token)
        if step in plan:
            new = plan[step]
            logits = decoder.add([PROMPTS[row] for row in new], [adapters[row] for row in new])
            for row, token in zip(new, logits.argmax(-1).tolist(), strict=True):
                tokens[row].append(token)
            rows += new
        done = [place for place, row in enumerate(rows) if len(tokens[row]) == STEPS]
        if done:
            rows = [rows[place] for place in decoder.remove(done)]
        assert len(decoder) == len(rows)
        step += 1
    return [cut(ids) for ids in tokens]


@pytest.fixture
def adapters(llama_spec: LoraSpec, kit: type[Kit]) -> list[LoraWeights | None]:
    one, two, three = kit.weights(llama_spec, 3).unbind()
    blend = kit.weights(llama_spec, 2, seed=3).blend(torch.tensor([[0.5, 0.7]]))
    return [one, None, two, blend, three]


PLANS = [
    {0: [0, 1, 2, 3, 4]},
    {0: [2], 1: [0, 1], 3: [3], 5: [4]},
    {0: [1], 2: [2], 20: [3, 4, 0]},
]


@pytest.mark.parametrize("plan", PLANS)
def test_mixed_rows_that_come_and_go_answer_as_each_alone(
    llama: PreTrainedModel,
    llama_spec: LoraSpec,
    adapters: Adapters,
    plan: dict[int, list[int]],
) -> None:
    answers = decode(llama, llama_spec, plan, adapters)
    wanted = [alone(llama, *pair) for pair in zip(PROMPTS, adapters, strict=True)]
    assert answers == wanted
    assert len({tuple(ids) for ids in wanted}) == len(wanted)


def test_rows_of_one_adapter_and_rows_without_answer_as_each_alone(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters
) -> None:
    for adapter in (adapters[0], None):
        answers = decode(llama, llama_spec, PLANS[1], [adapter] * 5)
        assert answers == [alone(llama, prompt, adapter) for prompt in PROMPTS]


def test_every_family_decodes_rows_of_one_batch(family: str, kit: type[Kit]) -> None:
    config = kit.config(family)
    model = kit.model(config)
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2)
    weights: list[LoraWeights | None] = [None, *kit.weights(spec, 4).unbind()]
    answers = decode(model, spec, PLANS[0], weights)
    wanted = [alone(model, *pair) for pair in zip(PROMPTS, weights, strict=True)]
    assert answers == wanted


def test_the_model_is_free_between_steps_once_it_is_released(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters
) -> None:
    decoder = Decoder(llama, llama_spec)
    decoder.add([[5]], [adapters[0]])
    decoder.step([6])
    assert adapters[2] is not None
    with pytest.raises(SpecError, match="inside adapted"), adapted(llama, adapters[2]):
        pass
    decoder.release()
    with adapted(llama, adapters[2]):
        pass
    assert decoder.step([7]).shape == (1, 61)
    decoder.remove([0])
    assert len(decoder) == 0
