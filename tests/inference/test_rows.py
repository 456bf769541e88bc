from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from text_to_lora.inference.rows import (
    Rows,
    answer_logits,
    contiguous_head,
    logits_at,
    split_by_tokens,
    split_in_order,
)
from tiny_models import make_config

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": make_config,
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0),
    "granite": lambda: GraniteConfig(**SIZES, logits_scaling=3.0),
    "cohere": lambda: CohereConfig(**SIZES, logit_scale=0.3),
    "gpt2": lambda: GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    ),
    "bert": lambda: BertConfig(**SIZES, max_position_embeddings=64, is_decoder=True),
}
PROMPTS = [[5, 6, 7], [9, 10, 11], [15, 16, 17]]
ANSWERS = [[8], [12, 13, 14], [18, 19]]
ROWS = Rows.join(PROMPTS, ANSWERS)
IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [0, 15, 16, 17, 18, 19]])
MASK = (IDS != 0).long()
PLACES = torch.tensor([4, 8, 9, 10, 15, 16])  # that predict the answers, in the flattened IDS


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(BASES[request.param]())
    assert isinstance(model, PreTrainedModel)
    return model.eval().requires_grad_(False)


def options() -> dict[str, Tensor]:
    return {"attention_mask": MASK, "position_ids": (MASK.cumsum(1) - 1).clamp_min(0)}


def expected_logits(base: PreTrainedModel) -> Tensor:
    """Row by row, without padding."""
    rows = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        logits = base(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        rows.append(logits[len(prompt) - 1 : -1])
    return torch.cat(rows)


def test_answer_logits_equal_those_of_rows_alone(base: PreTrainedModel) -> None:
    expected = expected_logits(base)
    with answer_logits(base, ROWS) as logits:
        torch.testing.assert_close(logits, expected)


def test_the_head_sees_the_asked_positions_alone(base: PreTrainedModel) -> None:
    head = base.get_output_embeddings()
    assert isinstance(head, nn.Module)
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    logits = logits_at(base, PLACES, IDS, **options())
    base(input_ids=IDS, **options())
    handle.remove()
    assert [hidden.shape[:2].numel() for hidden in seen] == [6, 18]  # and nothing is left behind
    assert seen[0].is_contiguous()
    torch.testing.assert_close(logits, expected_logits(base))


def test_a_base_without_output_embeddings_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = AutoModelForCausalLM.from_config(BASES["llama"]()).eval()
    expected = expected_logits(base)
    monkeypatch.setattr(base, "get_output_embeddings", lambda: None)
    with contiguous_head(base):
        torch.testing.assert_close(logits_at(base, PLACES, IDS, **options()), expected)


def test_generating_hands_the_head_contiguous_states(base: PreTrainedModel) -> None:
    head = base.get_output_embeddings()
    assert isinstance(head, nn.Module)
    whole: list[bool] = []
    handle = head.register_forward_hook(
        lambda module, args, output: whole.append(args[0].is_contiguous())
    )
    generate: Any = base.generate
    with contiguous_head(base):
        inside = generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)
    assert whole == [True] * 3
    handle.remove()
    outside = generate(IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False)
    assert torch.equal(inside, outside)


def test_rows_of_like_length_fill_passes_with_their_padding() -> None:
    lengths = [9, 30, 31, 70, 8, 7]
    parts = list(split_by_tokens(lengths, 64))
    assert parts == [[3], [2, 1], [0, 4, 5]]  # a longer row is alone


def test_neighbours_fill_passes_without_padding() -> None:
    assert list(split_in_order([9, 30, 31, 70, 8, 7], 64)) == [[0, 1], [2], [3], [4, 5]]
    assert list(split_in_order([9, 30, 25], 64)) == [[0, 1, 2]]


def test_rows_know_their_targets_and_the_row_of_each() -> None:
    assert ROWS.targets.tolist() == [8, 12, 13, 14, 18, 19]
    assert ROWS.of_row.tolist() == [0, 1, 1, 1, 2, 2]
    assert [row.tolist() for row in ROWS.unbind()] == [
        [*prompt, *answer] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
