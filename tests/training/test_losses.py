import math

import pytest
import torch
from torch import Tensor

from text_to_lora.inference.rows import Rows
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.training.losses import (
    answer_losses,
    are_answers_exact,
    weight_penalty,
)
from tiny_models import make_config

IGNORED = -100
LABELS = torch.tensor([[3, 1, IGNORED, IGNORED], [0, 2, 4, 1], [2, IGNORED, IGNORED, IGNORED]])
TOKENS = LABELS != IGNORED
ROWS = Rows.join([[7]] * 3, [[3, 1], [0, 2, 4, 1], [2]])


@pytest.fixture
def logits(generator: torch.Generator) -> Tensor:
    return 3 * torch.randn(3, 4, 5, generator=generator)


def log_probabilities(scores: Tensor) -> list[float]:
    total = math.log(sum(math.exp(score) for score in scores.tolist()))
    return [score - total for score in scores.tolist()]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_answer_losses_equal_a_loop_over_tokens(logits: Tensor, smoothing: float) -> None:
    expected = []
    for row, labels in zip(logits, LABELS.tolist(), strict=True):
        tokens = []
        for scores, label in zip(row, labels, strict=True):
            if label != IGNORED:
                known = log_probabilities(scores)
                target = [smoothing / 5 + (1 - smoothing) * (i == label) for i in range(5)]
                tokens.append(-sum(t * p for t, p in zip(target, known, strict=True)))
        expected.append(sum(tokens) / len(tokens))
    losses = answer_losses(logits[TOKENS], ROWS, label_smoothing=smoothing)
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_answer_losses_are_float32_for_bfloat16_logits(logits: Tensor) -> None:
    assert answer_losses(logits[TOKENS].bfloat16(), ROWS).dtype == torch.float32


def test_weight_penalty_is_that_of_the_released_code(generator: torch.Generator) -> None:
    spec = LoraSpec.from_config(make_config(), targets=["q_proj", "down_proj"], rank=2)
    shapes = {g.key: (len(g.layers), g.in_features, g.out_features) for g in spec.groups}
    a = {k: torch.randn(4, s, 2, i, generator=generator) for k, (s, i, _) in shapes.items()}
    b = {k: torch.randn(4, s, o, 2, generator=generator) for k, (s, _, o) in shapes.items()}
    penalties = weight_penalty(LoraWeights(spec, a, b))
    # There: mean over batch, layers and numbers, of A and of B, for every target module.
    released = sum((t**2).mean() for side in (a, b) for t in side.values())
    assert penalties.shape == (4,)
    torch.testing.assert_close(penalties.mean(), released)


def test_an_answer_is_exact_when_every_token_is_the_likeliest() -> None:
    rows = Rows.join([[9], [9], [9]], [[1, 2], [0, 1, 2], [2]])
    tokens = torch.tensor([1, 2, 0, 2, 2, 2])  # row by row
    logits = torch.nn.functional.one_hot(tokens, 3).float()
    assert are_answers_exact(logits, rows).tolist() == [True, False, True]
