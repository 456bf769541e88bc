"""Costs that torch counts, against closed forms, brute force, and files that are really written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen3Config,
)

from text_to_lora.analysis.cost import (
    BaseCost,
    Cost,
    Question,
    Way,
    cheaper,
    crossing,
    encoder_cost,
    hypernet_flops,
)
from text_to_lora.encoders import load_encoder
from text_to_lora.errors import ConfigError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.library.library import LibraryEntry, write_library
from text_to_lora.lora import LoraSpec
from text_to_lora.lora.weights import LoraWeights

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
# Each with the numbers in a layer's matrices that one token passes, and in those of the output.
ATTENTION = 2 * 32 * 32 + 2 * 32 * 16  # q and o; k and v of half as many heads
BASES = {
    "llama": (LlamaConfig(**GROUPED), ATTENTION + 3 * 32 * 48),
    "qwen 3": (Qwen3Config(**GROUPED, head_dim=8), ATTENTION + 3 * 32 * 48),
    "mixtral": (
        MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
        ATTENTION + 32 * 4 + 2 * 3 * 32 * 48,  # the router, and two of four experts
    ),
    "gpt-2": (GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4), 4 * 32 * 32 + 8 * 32**2),
    "gpt-neox": (GPTNeoXConfig(**SMALL), 4 * 32 * 32 + 2 * 32 * 48),
}


def by_hand(matrices: int, tokens: int, past: int = 0) -> int:
    """Operations of a pass: two layers of matrices and attention, and one token's output."""
    attention = 2 * 2 * 32 * tokens * (past + tokens)  # queries with keys, weights with values
    return 2 * (2 * matrices * tokens + 32 * 100) + 2 * attention


def tiny_spec(rank: int = 4) -> LoraSpec:
    return LoraSpec.from_config(
        LlamaConfig(**GROUPED), targets=["q_proj", "v_proj", "up_proj"], rank=rank, name="tiny"
    )


def make_cost(head: Any = "joint") -> Cost:
    sizes = HypernetConfig(head=head, embedding_dim=32, latent_size=16, head_in_size=20)
    return Cost(BaseCost(LlamaConfig(**GROUPED)), tiny_spec(), sizes, "minilm")


@pytest.mark.parametrize("name", BASES)
def test_a_pass_costs_what_its_matrices_say(name: str) -> None:
    config, matrices = BASES[name]
    base = BaseCost(config)
    assert base.pass_flops(20) == by_hand(matrices, 20)
    assert base.pass_flops(7, past=13) == by_hand(matrices, 7, 13)


def test_an_answer_is_its_passes_added_up() -> None:
    config, matrices = BASES["llama"]
    expected = by_hand(matrices, 20, 5) + sum(by_hand(matrices, 1, 25 + n) for n in range(6))
    assert BaseCost(config).answer_flops(20, 7, past=5) == expected
    assert BaseCost(config).answer_flops(20, 1) == by_hand(matrices, 20)


def test_a_window_keeps_one_token_fewer_than_it_sees() -> None:
    base = BaseCost(MistralConfig(**GROUPED, sliding_window=8))
    assert base.pass_flops(1, past=30) == by_hand(ATTENTION + 3 * 32 * 48, 1, 7)


def test_mistral_7b_is_counted_without_its_weights() -> None:
    # Written down by hand: q and o, k and v, three of the gated block, in 32 layers.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    attention = 4 * 4096 * 300 * 300
    expected = 2 * 300 * 32 * layer + 32 * attention + 2 * 4096 * 32_000
    assert BaseCost(MistralConfig(sliding_window=None)).pass_flops(300) == expected


def test_a_model_without_keys_and_values_is_refused() -> None:
    mamba = MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match=r"operations of 'mamba' cannot be counted: .*keys and"):
        BaseCost(mamba).pass_flops(3)


@pytest.mark.parametrize("head", ["joint", "shared", "rank"])
@pytest.mark.parametrize("vector", [None, 12])
def test_operations_of_the_hypernetwork_are_those_with_numbers(
    head: Any, vector: int | None, generator: torch.Generator
) -> None:
    sizes = HypernetConfig(
        head=head, embedding_dim=24, latent_size=16, head_in_size=20, task_vector_dim=vector
    )
    hypernet = Hypernetwork.from_config(sizes, tiny_spec(), generator).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hypernet(torch.eye(24)[:1])
    assert hypernet_flops(sizes, tiny_spec()) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("kind", "layers", "hidden", "inner", "matrices", "parameters"),
    [("gte", 24, 1024, 4096, 3, 434_139_136), ("minilm", 6, 384, 1536, 2, 22_565_376)],
)
def test_an_encoder_costs_what_its_matrices_say(
    kind: str, layers: int, hidden: int, inner: int, matrices: int, parameters: int
) -> None:
    numbers, flops = encoder_cost(kind, 36)
    per_token = 4 * hidden**2 + matrices * hidden * inner
    assert flops == 2 * layers * (36 * per_token + 2 * hidden * 36**2)
    assert numbers == parameters


def test_ways_add_up() -> None:
    costs, question = make_cost(), Question(prompt=10, answer=3, shots=2, description=5)
    ways = {way.name: way for way in costs.ways(question)}
    base = costs.base
    assert ways["zero-shot"].each == base.answer_flops(10, 3)
    assert ways["2-shot"].each == base.answer_flops(2 * 13 + 10, 3)
    cached = ways["2-shot, prefix cached"]
    assert cached.once == base.pass_flops(26)
    assert cached.each == base.answer_flops(10, 3, past=26)
    assert cached.held == 26 * 2 * 2 * 2 * 8 * 2  # layers, K and V, heads of them, width, bytes
    ours = ways["T2L"]
    assert ours.each - ways["zero-shot"].each == 2 * costs.spec.num_parameters * 12
    _, encoding = encoder_cost("minilm", 5)
    assert ours.once == encoding + hypernet_flops(costs.hypernet, costs.spec)


@pytest.mark.parametrize("other", [(0, 10), (7, 3), (20, 1), (3, 4), (0, 4), (5, 4), (6, 4)])
@pytest.mark.parametrize("ours", [(5, 4), (0, 1), (100, 2), (3, 5)])
def test_break_even_is_found_by_counting_up(ours: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = Way("ours", *ours, 0), Way("other", *other, 0)
    enough = range(1, 200)
    good = [q for q in enough if first.flops(q) <= second.flops(q)]
    interval = cheaper(first, second)
    if interval is None:
        assert not good
    else:
        last = enough[-1] if interval[1] is None else interval[1]
        assert good == list(range(interval[0], last + 1))


def test_crossing_is_the_first_library_that_is_larger() -> None:
    for fixed, each in ((10, 3), (9, 3), (1, 5), (0, 2)):
        assert crossing(fixed, each) == next(n for n in range(1, 99) if n * each > fixed)


def test_bytes_are_those_of_the_files(tmp_path: Path, generator: torch.Generator) -> None:
    costs = make_cost()
    facts = costs.to_dict(Question(), adapters=3, questions=1)
    spec = costs.spec
    zeros = LoraWeights(
        spec,
        {g.key: torch.zeros(1, len(g.layers), spec.rank, g.in_features) for g in spec.groups},
        {g.key: torch.zeros(1, len(g.layers), g.out_features, spec.rank) for g in spec.groups},
    )
    entries = [LibraryEntry(f"task-{number}") for number in range(3)]
    write_library(tmp_path / "library", spec, entries, iter([zeros] * 3), dtype=torch.bfloat16)
    hypernet = Hypernetwork.from_config(costs.hypernet, spec, generator).to(torch.bfloat16)
    encoder = load_encoder("hash").config
    save_hypernet(tmp_path / "hypernet", hypernet, encoder, training={})
    for file, part in (
        ("library/library.safetensors", "library"),
        ("hypernet/model.safetensors", "hypernetwork"),
    ):
        content = (tmp_path / file).read_bytes()
        header = int.from_bytes(content[:8], "little")
        assert len(content) - 8 - header == facts[part]["bytes"]


@pytest.mark.parametrize("field", ["prompt", "answer", "shots", "description"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_of_tokens_that_cannot_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value!r}; a whole number of 1 or more"):
        Question(**{field: value})
