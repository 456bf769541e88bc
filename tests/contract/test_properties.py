"""What holds for every adapter, blend, prompt and batch: tried on examples that hypothesis draws."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from text_to_lora.inference.rows import Rows, answer_logits
from text_to_lora.lora import LoraSpec, LoraWeights, load_adapter, save_adapter
from text_to_lora.tasks.prompts import PromptFormat
from tiny_models import SPECIAL, make_config, make_tokenizer, random_adapters

# peft 0.21 asks transformers 5.23 for a property that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

# derandomized: the same examples on every machine, so that a run can be repeated
quick = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@st.composite
def specs(draw: st.DrawFn) -> LoraSpec:
    return LoraSpec.from_config(
        make_config(),
        targets=draw(st.lists(st.sampled_from(TARGETS), min_size=1, unique=True)),
        layers=draw(st.sampled_from((None, [0], [1], [0, 1]))),
        rank=draw(st.integers(1, 9)),
        alpha=draw(st.sampled_from((0.5, 1, 3, 4, 16.0, 64))),
        rslora=draw(st.booleans()),
        name=draw(st.sampled_from(("base", "owner/name", "日本 base"))),
    )


@st.composite
def adapters(draw: st.DrawFn, most: int = 1) -> LoraWeights:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return random_adapters(draw(specs()), draw(st.integers(1, most)), generator)


def assert_same_delta(loaded: LoraWeights, expected: LoraWeights) -> None:
    assert sorted(loaded.a) == sorted(expected.a)
    for key in expected.a:
        # the scaling moves into B, and is rounded there
        torch.testing.assert_close(loaded.delta(key), expected.delta(key), rtol=1e-5, atol=1e-5)


@quick(max_examples=25)
@given(specs())
def test_a_spec_comes_back_from_json_as_it_was(spec: LoraSpec) -> None:
    assert LoraSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@quick(max_examples=15)
@given(adapters(), st.booleans())
def test_a_peft_folder_gives_back_the_adapter_that_was_saved(
    weights: LoraWeights, scale_safe: bool
) -> None:
    with tempfile.TemporaryDirectory() as root:
        one = save_adapter(weights, Path(root) / "one", scale_safe=scale_safe)
        loaded = load_adapter(one, base_config=make_config())
        assert_same_delta(loaded, weights)
        assert_same_delta(load_adapter(one, spec=weights.spec), weights)
        if not scale_safe:
            assert loaded.spec == weights.spec
            for key in weights.a:
                assert torch.equal(loaded.a[key], weights.a[key])
                assert torch.equal(loaded.b[key], weights.b[key])
        two = save_adapter(loaded, Path(root) / "two", scale_safe=scale_safe)
        for file in sorted(one.iterdir()):
            assert (two / file.name).read_bytes() == file.read_bytes(), file.name


@quick(max_examples=5)
@given(adapters(), st.booleans())
def test_peft_computes_the_same_change_of_every_weight(
    weights: LoraWeights, scale_safe: bool
) -> None:
    spec = weights.spec
    with tempfile.TemporaryDirectory() as root:
        folder = save_adapter(weights, Path(root) / "adapter", scale_safe=scale_safe)
        torch.manual_seed(0)
        loaded: Any = peft.PeftModel.from_pretrained(LlamaForCausalLM(make_config()), str(folder))
    modules = dict(loaded.base_model.model.named_modules())
    adapted = {name for name, module in modules.items() if hasattr(module, "get_delta_weight")}
    assert adapted == {spec.module_name(slot.layer, slot.module) for slot in spec.slots}
    for group in spec.groups:
        for place, layer in enumerate(group.layers):
            module = modules[spec.module_name(layer, group.module)]
            torch.testing.assert_close(
                module.get_delta_weight("default").detach(),
                weights.delta(group.key)[0, place],
                rtol=1e-5,
                atol=1e-6,
            )


@quick(max_examples=20)
@given(st.data())
def test_a_blend_is_the_same_combination_of_the_changes(data: st.DataObject) -> None:
    weights = data.draw(adapters(most=4))
    shares = st.lists(
        st.floats(-2, 2, width=32), min_size=weights.num_adapters, max_size=weights.num_adapters
    )
    coefficients = torch.tensor(data.draw(st.lists(shares, min_size=1, max_size=3)))
    blended = weights.blend(coefficients)
    assert blended.num_adapters == len(coefficients)
    assert blended.spec.rank == weights.num_adapters * weights.spec.rank
    assert blended.spec.scaling == pytest.approx(weights.spec.scaling, rel=1e-12)
    for group in weights.spec.groups:
        expected = torch.einsum("nk,k...->n...", coefficients, weights.delta(group.key))
        torch.testing.assert_close(blended.delta(group.key), expected, rtol=1e-4, atol=1e-4)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def texts(**sizes: int) -> st.SearchStrategy[str]:
    """Of any characters, but for the tokenizer's special tokens."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="<")
    return st.text(characters, **sizes).map(str.strip)


@quick(max_examples=40)
@given(texts(max_size=40), texts(max_size=10), st.one_of(st.none(), texts(max_size=30)))
def test_a_prompt_holds_every_text_whole_and_ends_where_the_answer_begins(
    text: str, answer: str, description: str | None
) -> None:
    form = PromptFormat.for_tokenizer(tokenizer())
    row = form.encode(tokenizer(), text, answer, description, max_length=1000)
    assert not row.cut
    written = tokenizer().decode(row.prompt_ids)
    assert written == form.prompt(text, description)
    assert written.endswith(f"Input: {text}\nAnswer:")
    assert (description or "") in written
    assert tokenizer().decode(row.answer_ids) == f" {answer}</s>"
    assert form.read_answer(tokenizer(), row.answer_ids) == answer


@quick(max_examples=40)
@given(texts(min_size=1, max_size=80), texts(max_size=5), st.integers(40, 120))
def test_a_row_that_is_cut_keeps_its_length_its_answer_and_the_end_of_its_input(
    text: str, answer: str, max_length: int
) -> None:
    form = PromptFormat.for_tokenizer(tokenizer())
    whole = form.encode(tokenizer(), text, answer, max_length=10_000)
    row = form.encode(tokenizer(), text, answer, max_length=max_length)
    assert row.answer_ids == whole.answer_ids
    assert len(row.prompt_ids) + len(row.answer_ids) <= max_length
    assert row.cut == (len(whole.prompt_ids) + len(whole.answer_ids) > max_length)
    written = tokenizer().decode(row.prompt_ids)
    rest = written.removeprefix("Input: ").removesuffix("\nAnswer:")
    assert text.endswith(rest)


@functools.cache
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config()).eval().requires_grad_(False)


tokens = st.lists(st.integers(len(SPECIAL), len(SPECIAL) + 255), min_size=1, max_size=6)


@quick(max_examples=15)
@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=4), st.data())
def test_rows_of_any_lengths_and_adapters_give_the_logits_of_each_row_alone(
    rows: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    spec = LoraSpec.from_config(make_config(), targets=["q_proj", "down_proj"], rank=2)
    weights = random_adapters(spec, 2, torch.Generator().manual_seed(0))
    of_row = data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows)))
    prompts, answers = zip(*rows, strict=True)
    alone = []
    for prompt, answer, adapter in zip(prompts, answers, of_row, strict=True):
        with answer_logits(base(), Rows.join([prompt], [answer]), weights, [adapter]) as logits:
            alone.append(logits)
    with answer_logits(base(), Rows.join(prompts, answers), weights, of_row) as together:
        # sums of another order in float32
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
