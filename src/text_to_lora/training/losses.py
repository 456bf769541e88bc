"""Losses of supervised training; each gives one number a row, so that rows count alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from text_to_lora.inference.rows import IGNORED
from text_to_lora.lora.weights import LoraWeights


def answer_losses(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the answer tokens of every row, in nats a token, [batch].

    logits: that predict the answer tokens, row by row, [answer tokens, vocab]
    labels: -100 where there is no token, [batch, answer]
    label_smoothing: share of the target spread evenly over the vocabulary

    Source: Text-to-LoRA (arXiv 2506.06105), released code with `equally_weight_sample`.
    """
    kept = labels != IGNORED
    losses = F.cross_entropy(
        logits.float(), labels[kept], reduction="none", label_smoothing=label_smoothing
    )
    return _row_means(losses, kept)


def are_answers_exact(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the likeliest token is right at every answer token of a row, [batch].

    logits, labels: as for `answer_losses`
    This is so exactly when greedy decoding gives the answer and ends after it.
    """
    kept = labels != IGNORED
    wrong = (logits.argmax(-1) != labels[kept]).long()
    rows = kept.nonzero()[:, 0]
    return wrong.new_zeros(len(kept)).index_add(0, rows, wrong) == 0


def distillation_kl(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student) over the answer tokens of every row, in nats a token, [batch].

    logits, teacher_logits: as for `answer_losses`, [answer tokens, vocab]
    labels: -100 where there is no token, [batch, answer]
    The gradient reaches `logits` alone.
    """
    kept = labels != IGNORED
    student = F.log_softmax(logits.float(), dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().float(), dim=-1)
    losses = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return _row_means(losses, kept)


def weight_penalty(weights: LoraWeights) -> Tensor:
    """Sum over groups of mean(A²) + mean(B²), for every adapter, [adapters].

    Source: Text-to-LoRA, released code (there over the whole batch; the mean over its rows is it).
    """
    squares = [t.square().mean(dim=(1, 2, 3)) for t in (*weights.a.values(), *weights.b.values())]
    return torch.stack(squares).sum(0)


def _row_means(losses: Tensor, kept: Tensor) -> Tensor:
    """Means over rows of the values at the kept places, which come row by row."""
    rows = kept.nonzero()[:, 0]
    sums = losses.new_zeros(len(kept)).index_add(0, rows, losses)
    return sums / kept.sum(1)
