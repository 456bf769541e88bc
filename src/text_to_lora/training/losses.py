"""Losses of supervised training; each gives one number a row, so that rows count alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from text_to_lora.inference.rows import Rows
from text_to_lora.lora.weights import LoraWeights


def answer_losses(logits: Tensor, rows: Rows, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the answer tokens of every row, in nats a token, [rows].

    logits: that predict the answer tokens, row by row, [answer tokens, vocab]
    label_smoothing: share of the target spread evenly over the vocabulary

    Source: Text-to-LoRA (arXiv 2506.06105), released code with `equally_weight_sample`.
    """
    losses = F.cross_entropy(
        logits.float(), rows.targets, reduction="none", label_smoothing=label_smoothing
    )
    return _row_means(losses, rows)


def are_answers_exact(logits: Tensor, rows: Rows) -> Tensor:
    """Whether the likeliest token is right at every answer token of a row, [rows].

    logits, rows: as for `answer_losses`
    This is so exactly when greedy decoding gives the answer and ends after it.
    """
    wrong = (logits.argmax(-1) != rows.targets).long()
    return wrong.new_zeros(len(rows)).index_add(0, rows.of_row, wrong) == 0


def weight_penalty(weights: LoraWeights) -> Tensor:
    """Sum over groups of mean(A²) + mean(B²), for every adapter, [adapters].

    Source: Text-to-LoRA, released code (there over the whole batch; the mean over its rows is it).
    """
    squares = [t.square().mean(dim=(1, 2, 3)) for t in (*weights.a.values(), *weights.b.values())]
    return torch.stack(squares).sum(0)


def _row_means(losses: Tensor, rows: Rows) -> Tensor:
    """Means over the answer tokens of every row."""
    counts = losses.new_tensor(rows.answer_lengths)
    return losses.new_zeros(len(rows)).index_add(0, rows.of_row, losses) / counts
