"""Costs by formula, against torch's counter, brute force, and files that are really written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.gte import GteConfig, GteModel

from text_to_lora.analysis import cost_measure
from text_to_lora.analysis.cost import (
    ENCODERS,
    PAPER,
    BaseCost,
    Cost,
    Question,
    Way,
    cheaper,
    check_count,
    count_flops,
    crossing,
    hypernet_flops,
    prompt_of,
)
from text_to_lora.encoders import load_encoder
from text_to_lora.errors import BackendError, ConfigError
from text_to_lora.hypernet import HypernetConfig, Hypernetwork, save_hypernet
from text_to_lora.lora import LoraSpec

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
BASES = {
    "llama": LlamaConfig(**GROUPED),
    "mistral with a window": MistralConfig(**GROUPED, sliding_window=8, head_dim=16),
    "gemma 2": Gemma2Config(**GROUPED, head_dim=16, sliding_window=8),
    "qwen 2": Qwen2Config(**GROUPED),
    "qwen 3": Qwen3Config(**GROUPED, head_dim=16),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "gpt-2": GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4),
    "gpt-neox": GPTNeoXConfig(**SMALL),
    "bert as the embedded base": BertConfig(**SMALL, is_decoder=True),
}


def mistral_7b() -> MistralConfig:
    return MistralConfig(sliding_window=None)


def tiny_spec(rank: int = 4) -> LoraSpec:
    return LoraSpec.from_config(
        LlamaConfig(**GROUPED), targets=["q_proj", "v_proj", "up_proj"], rank=rank, name="tiny"
    )


def make_cost(head: Any = "joint") -> Cost:
    spec = tiny_spec()
    sizes = HypernetConfig(head=head, embedding_dim=32, latent_size=16, head_in_size=20)
    parameters = Hypernetwork.empty(sizes, spec).num_parameters
    base = BaseCost.from_config(LlamaConfig(**GROUPED))
    return Cost(base, spec, sizes, parameters, ENCODERS["minilm"])


@pytest.mark.parametrize("name", BASES)
def test_the_formula_is_what_torch_counts(name: str) -> None:
    config = BASES[name]
    base = BaseCost.from_config(config)
    assert count_flops(config, 20, 4) == base.answer_flops(20, 4)


def test_the_formula_holds_at_the_size_of_mistral_7b() -> None:
    base = BaseCost.from_config(mistral_7b())
    assert base.is_mistral_7b and not BaseCost.from_config(BASES["llama"]).is_mistral_7b
    counted = count_flops(mistral_7b(), 300, 2)
    assert base.answer_flops(300, 2) == counted
    # Written down by hand: q and o, k and v, three of the gated block, in 32 layers.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    attention = 4 * 4096 * 300 * 300
    assert base.pass_flops(300) == 2 * 300 * 32 * layer + 32 * attention + 2 * 4096 * 32_000


def test_pairs_that_the_mask_lets_through_are_counted_one_by_one() -> None:
    base = BaseCost.from_config(BASES["gemma 2"])
    assert sorted(window or 0 for window in base.windows) == [0, 8]
    for past, tokens in ((0, 20), (5, 7), (30, 1), (3, 2)):
        pairs = sum(
            1
            for window in base.windows
            for place in range(past, past + tokens)
            for other in range(place + 1)
            if window is None or place - other < window
        )
        found = base.pass_flops(tokens, past=past, predicted=0, masked=True)
        width = base.heads * (base.key_dim + base.value_dim)
        assert found == 2 * (base.linear * tokens + width * pairs)


def test_a_cached_prefix_costs_the_same_in_two_parts_when_the_mask_is_used() -> None:
    base = BaseCost.from_config(BASES["mistral with a window"])
    whole = base.pass_flops(30, masked=True)
    parts = base.pass_flops(18, predicted=0, masked=True) + base.pass_flops(
        12, past=18, masked=True
    )
    assert parts == whole


def test_what_is_no_attention_is_refused() -> None:
    config = Qwen2Config(**GROUPED)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ConfigError, match=r"'qwen2' has layers of kind linear_attention; costs"):
        BaseCost.from_config(config)
    mamba = MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match=r"'mamba' has (layers of kind|no num_attention)"):
        BaseCost.from_config(mamba)


def test_a_formula_that_is_wrong_is_refused() -> None:
    config = BASES["llama"]
    good = BaseCost.from_config(config)
    assert check_count(good, config, 8, 2) == pytest.approx(good.answer_flops(8, 2), rel=0.01)
    wrong = BaseCost.from_config(BASES["qwen 3"])
    with pytest.raises(ConfigError, match=r"'llama' takes [\d,]+ FLOPs and the formula says"):
        check_count(wrong, config, 8, 2)


@pytest.mark.parametrize("head", ["joint", "shared", "rank"])
@pytest.mark.parametrize("vector", [None, 12])
def test_operations_of_the_hypernetwork_are_what_torch_counts(
    head: Any, vector: int | None, generator: torch.Generator
) -> None:
    sizes = HypernetConfig(
        head=head, embedding_dim=24, latent_size=16, head_in_size=20, task_vector_dim=vector
    )
    hypernet = Hypernetwork.from_config(sizes, tiny_spec(), generator).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hypernet(torch.eye(24)[:1])
    assert hypernet_flops(sizes, tiny_spec()) == counter.get_total_flops()


def test_the_encoders_are_those_of_transformers() -> None:
    with torch.device("meta"):
        models = {
            "gte": GteModel(GteConfig(**cost_measure.GTE)),
            "minilm": BertModel(BertConfig(**cost_measure.MINILM)),
        }
        for name, model in models.items():
            with FlopCounterMode(display=False) as counter:
                model(input_ids=torch.zeros(1, 36, dtype=torch.long))
            pooler = 2 * 384 * 384 if name == "minilm" else 0  # which no embedding needs
            assert ENCODERS[name].flops(36) + pooler == counter.get_total_flops()
            numbers = sum(parameter.numel() for parameter in model.parameters())
            assert ENCODERS[name].parameters == numbers


def test_the_cost_of_an_adapter_is_that_of_its_two_products() -> None:
    made = make_cost()
    total = 0
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        for slot in made.spec.slots:
            low = torch.zeros(10, slot.in_features) @ torch.zeros(slot.in_features, made.spec.rank)
            low @ torch.zeros(made.spec.rank, slot.out_features)
        total = counter.get_total_flops()
    assert made.adapter_flops(10) == total


def test_ways_add_up() -> None:
    made, question = make_cost(), Question(prompt=10, answer=3, shots=2, description=5)
    ways = {way.name: way for way in made.ways(question)}
    base = made.base
    assert ways["zero-shot"].each == base.answer_flops(10, 3)
    assert ways["2-shot"].each == base.answer_flops(2 * 13 + 10, 3)
    cached = ways["2-shot, prefix cached"]
    assert cached.once == base.pass_flops(26, predicted=0)
    assert cached.each == base.answer_flops(10, 3, past=26)
    assert cached.kept == 26 * 2 * 2 * 2 * 8 * 2  # layers, K and V, heads of them, width, bytes
    ours = ways["T2L"]
    assert ours.each - ways["zero-shot"].each == 2 * made.spec.num_parameters * 12
    assert ours.once == ENCODERS["minilm"].flops(5) + hypernet_flops(made.hypernet, made.spec)
    assert ours.per_question(4) == ours.once / 4 + ours.each


@pytest.mark.parametrize("other", [(0, 10), (7, 3), (20, 1), (3, 4), (0, 4), (5, 4), (6, 4)])
@pytest.mark.parametrize("ours", [(5, 4), (0, 1), (100, 2), (3, 5)])
def test_break_even_is_found_by_counting_up(ours: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = Way("ours", *ours, 0), Way("other", *other, 0)
    enough = range(1, 200)
    good = [q for q in enough if first.flops(q) <= second.flops(q)]
    found = cheaper(first, second)
    if found is None:
        assert not good
    else:
        last = enough[-1] if found[1] is None else found[1]
        assert good == list(range(found[0], last + 1))


def test_crossing_is_the_first_library_that_is_larger() -> None:
    for fixed, each in ((10, 3), (9, 3), (1, 5), (0, 2)):
        assert crossing(fixed, each) == next(n for n in range(1, 99) if n * each > fixed)


def test_bytes_are_those_of_the_files(tmp_path: Path, generator: torch.Generator) -> None:
    made = make_cost()
    setting = make_setting(made, tmp_path)
    written = cost_measure.PARTS["write"](setting, 3, tmp_path)
    library = (tmp_path / "library" / "library.safetensors").stat().st_size
    header = int.from_bytes(
        (tmp_path / "library" / "library.safetensors").read_bytes()[:8], "little"
    )
    assert library - 8 - header == made.library_bytes(3)
    assert written["library"]["disk_bytes"] > library
    assert len(list((tmp_path / "folders").glob("*/adapter_model.safetensors"))) == 3
    hypernet = Hypernetwork.from_config(made.hypernet, made.spec, generator).to(torch.bfloat16)
    encoder = load_encoder("hash").config
    folder = save_hypernet(tmp_path / "hypernet", hypernet, encoder, training={})
    file = folder / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - 8 - header == made.hypernet_bytes


def test_the_papers_figures_are_prompts_of_some_length() -> None:
    base = BaseCost.from_config(mistral_7b())
    tokens = {name: prompt_of(base, 1e12 * PAPER[name]) for name in ("base", "3-shot")}
    for name, length in tokens.items():
        assert base.answer_flops(length, 1) <= 1e12 * PAPER[name]
        assert base.answer_flops(length + 1, 1) > 1e12 * PAPER[name]
    spec = LoraSpec.from_config(mistral_7b(), targets=["q_proj", "v_proj"], rank=8)
    flops = hypernet_flops(HypernetConfig(head="shared", embedding_dim=1024), spec)
    assert flops / (1e12 * PAPER["hypernetwork"]) > 500  # the quoted figure is too small


@pytest.mark.parametrize("field", ["prompt", "answer", "shots", "description"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_of_tokens_that_cannot_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is {value!r}; a whole number of 1 or more"):
        Question(**{field: value})


def make_setting(made: Cost, folder: Path) -> cost_measure.Setting:
    LlamaConfig(**GROUPED).save_pretrained(folder / "base")
    return cost_measure.Setting(
        spec=made.spec,
        config=str(folder / "base"),
        hypernet=made.hypernet,
        encoder="minilm",
        description=5,
    )


@pytest.mark.parametrize("part", ["generate", "resident", "apply", "merge"])
def test_parts_say_what_they_measured(part: str, tmp_path: Path) -> None:
    made = make_cost()
    found = cost_measure.PARTS[part](make_setting(made, tmp_path), 3, tmp_path)
    if part == "apply":
        assert found["one_token"]["rows"] == 3 and found["one_token"]["base_seconds_per_token"] > 0
        return
    assert found["seconds"] > 0 and found["peak_bytes"] >= 0 and found["rounds"] >= 1
    if part == "resident":
        assert found["held_bytes"] == made.library_bytes(3)
    if part == "generate":
        assert found["disk_bytes"] == made.hypernet_bytes
    if part == "merge":
        assert found["scaled"] == 3 / cost_measure.MERGED_AT_MOST
        numbers = sum(slot.in_features * slot.out_features for slot in made.spec.slots)
        assert found["held_bytes"] == 2 * 2 * numbers


def test_layers_that_do_not_fit_are_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_cost()
    monkeypatch.setattr(cost_measure, "MERGED_BYTES", 1)
    found = cost_measure.PARTS["merge"](make_setting(made, tmp_path), 1, tmp_path)
    assert (found["layers_measured"], found["scaled"]) == (1, 2)
    numbers = sum(slot.in_features * slot.out_features for slot in made.spec.slots)
    assert found["held_bytes"] == 2 * 2 * numbers


def test_each_measurement_is_a_process_of_its_own(tmp_path: Path) -> None:
    setting = make_setting(make_cost(), tmp_path)
    cost_measure.PARTS["write"](setting, 2, tmp_path)
    found = cost_measure.measure(setting, "load-folders", 2, tmp_path)
    assert found["seconds"] > 0 and found["disk_bytes"] > make_cost().library_bytes(2)
    with pytest.raises(BackendError, match=r"measuring 'load-library' with 2 .*no-such"):
        cost_measure.measure(setting, "load-library", 2, tmp_path / "no-such")
