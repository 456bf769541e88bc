"""Rows in one sequence: which bases take them, and that nothing changes by it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from text_to_lora.inference.packing import Segment, _attention, packed, takes_packed_rows
from text_to_lora.inference.rows import Rows, answer_logits
from text_to_lora.lora import LoraSpec, LoraWeights
from tiny_lora import make_model, make_weights

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
PACKED: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=6),
    "gemma3": lambda: Gemma3TextConfig(**GROUPED, sliding_window=6),
    "gpt2": lambda: GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    ),
    "bert": lambda: BertConfig(**SIZES, max_position_embeddings=64, is_decoder=True),
}
PADDED: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma2": lambda: Gemma2Config(**GROUPED),  # caps its attention scores
    "llama4": lambda: Llama4TextConfig(  # attends within chunks
        **GROUPED, intermediate_size_mlp=48, num_local_experts=2, bos_token_id=1, eos_token_id=2
    ),
    "mamba": lambda: MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4),
    "bloom": lambda: BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
}
PROMPTS = [[5, 6, 7, 8], [9], [10, 11, 12], [13, 14]]
ANSWERS = [[20, 21], [22, 23, 24], [25], [26, 27]]
ADAPTERS = [1, 0, 1, 2]


def make_base(family: str) -> PreTrainedModel:
    return make_model((PACKED | PADDED)[family]())


def draw_weights(base: PreTrainedModel) -> LoraWeights:
    spec = LoraSpec.from_config(base.config, targets="all-linear", rank=2)
    weights = make_weights(spec, adapters=3)
    for factor in (*weights.a.values(), *weights.b.values()):
        factor.requires_grad_()
    return weights


def run(base: PreTrainedModel, weights: LoraWeights) -> tuple[Tensor, list[Tensor]]:
    """Logits of the rows, and the gradient of a sum of them in every factor."""
    rows = Rows.join(PROMPTS, ANSWERS)
    factors = [*weights.a.values(), *weights.b.values()]
    noises = torch.randn(4, 8, 32, generator=torch.Generator().manual_seed(2))
    with answer_logits(
        base, rows, weights, ADAPTERS, noise=lambda row, x: 0.1 * noises[row, : len(x)]
    ) as logits:
        scales = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        return logits.detach(), list(torch.autograd.grad((logits * scales).sum(), factors))


@pytest.mark.parametrize("family", PACKED)
def test_packed_rows_give_the_logits_and_gradients_of_padded_ones(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(family)
    weights = draw_weights(base)
    assert takes_packed_rows(base, 6)
    implementation = base.config._attn_implementation
    logits, gradients = run(base, weights)
    assert base.config._attn_implementation == implementation and not _attention.segments
    monkeypatch.setattr("text_to_lora.inference.packing.takes_packed_rows", lambda *_: False)
    expected_logits, expected = run(base, weights)
    # float32 products in another order
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-3)


SHARED = [[5, 6, 7, 8], [5, 6, 7, 9, 10], [5, 6, 11], [5, 6, 7, 8], [30, 31], [30, 31], [12]]
OF_ADAPTER = [1, 1, 1, 0, 2, 2, 2]


@pytest.mark.parametrize("family", PACKED)
def test_rows_that_begin_alike_give_the_logits_and_gradients_of_rows_apart(family: str) -> None:
    base = make_base(family)
    weights = draw_weights(base)
    rows = Rows.join(SHARED, [[20, 21], [22], [23, 24], [25], [26], [27, 28], [29]])
    factors = [*weights.a.values(), *weights.b.values()]
    columns: list[int] = []
    base.get_input_embeddings().register_forward_hook(
        lambda module, args, output: columns.append(output.shape[1])
    )

    def run(share: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        with answer_logits(base, rows, weights, OF_ADAPTER, share=share) as logits:
            scales = torch.linspace(-1, 1, logits.numel()).view_as(logits)
            return logits.detach(), torch.autograd.grad((logits * scales).sum(), factors)

    takes_packed_rows(base, 6)
    columns.clear()
    (logits, gradients), (expected_logits, expected) = run(share=True), run(share=False)
    assert columns == [sum(rows.lengths) - 2 * 2 - 1, sum(rows.lengths)]
    # float32 products in another order
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", PADDED)
def test_bases_beyond_plain_causal_attention_are_padded(family: str) -> None:
    assert not takes_packed_rows(make_base(family), 4)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_rows_longer_than_a_sliding_window_are_padded(family: str) -> None:
    base = make_base(family)
    assert takes_packed_rows(base, 6) and not takes_packed_rows(base, 7)


def test_very_long_rows_are_padded() -> None:
    base = make_base("llama")
    assert takes_packed_rows(base, 512) and not takes_packed_rows(base, 513)


def test_a_base_that_leaks_between_rows_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = make_base("llama")
    norm = base.model.norm
    monkeypatch.setattr(norm, "forward", lambda x: x + x.cumsum(1))
    assert not takes_packed_rows(base, 4)


def test_a_base_that_does_not_read_positions_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    base: Any = make_base("gpt2")  # whose positions are absolute
    whole = base.forward

    def forward(input_ids: Tensor, **options: Any) -> Any:
        return whole(input_ids, use_cache=False)

    monkeypatch.setattr(base, "forward", forward)
    assert not takes_packed_rows(base, 4)


@pytest.mark.parametrize(("dtype", "packed"), [(torch.bfloat16, True), (torch.float32, False)])
def test_other_rounding_of_a_row_alone_counts_by_dtype(
    dtype: torch.dtype, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = make_base("llama").to(dtype)
    whole = base.forward

    def forward(**options: Any) -> Any:
        output = whole(**options)
        if "position_ids" not in options:  # a row alone, which another attention function computes
            output.logits = 1.2 * output.logits
        return output

    monkeypatch.setattr(base, "forward", forward)
    assert takes_packed_rows(base, 4) is packed


def test_a_thread_does_not_see_the_rows_of_another() -> None:
    seen = []
    with packed(make_base("llama"), [Segment(0, (3,))]):
        thread = Thread(target=lambda: seen.append(_attention.segments))
        thread.start()
        thread.join()
        assert _attention.segments == (Segment(0, (3,)),)
    assert seen == [()]
