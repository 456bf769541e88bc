"""The schedule of the learning rate, and AdamW over many adapters that are kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from text_to_lora.training.config import AdamWSection


def learning_rate(settings: AdamWSection, step: int, total: int) -> float:
    """The learning rate of a step counted from 0, of `total` steps; as get_scheduler has it."""
    warmup = round(settings.warmup * total)
    if step < warmup:
        return settings.lr * (step / max(1, warmup))
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "linear":
        return settings.lr * max(0.0, (total - step) / max(1, total - warmup))
    passed = (step - warmup) / max(1, total - warmup)
    return settings.lr * max(0.0, 0.5 * (1 + math.cos(math.pi * passed)))


@final
class TaskwiseAdamW:
    """AdamW on stacked tensors in which each task has moments, step count, schedule and clipping.

    tensors: parameters whose gradients are read, [tasks, ...] each
    settings: learning rate, schedule, weight decay, moments and clipping, the same for all tasks
    total_steps: length of each task's schedule, in steps
    anchors: values that weight decay pulls the tensors towards; None for zero

    What it does to a task is what torch.optim.AdamW does to a model of that task alone, with
    clip_grad_norm_ before and the schedule of transformers after; a task that is not stepped keeps
    weights, moments and count bit by bit.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        settings: AdamWSection,
        total_steps: Sequence[int],
        anchors: Sequence[Tensor] | None = None,
    ) -> None:
        self._tensors = list(tensors)
        self._anchors: Sequence[Tensor | None] = anchors or [None] * len(tensors)
        self._settings = settings
        self._total = list(total_steps)
        self.steps = torch.zeros(len(total_steps), dtype=torch.long)
        self._first = [torch.zeros_like(tensor) for tensor in tensors]
        self._second = [torch.zeros_like(tensor) for tensor in tensors]

    @torch.no_grad()
    def step(self, tasks: Sequence[int]) -> None:
        """Update these tasks from the gradients, and set the gradients to None."""
        settings = self._settings
        places = torch.tensor(tasks)
        index = places.to(self._tensors[0].device)
        gradients = [
            torch.zeros_like(tensor[index]) if tensor.grad is None else tensor.grad[index]
            for tensor in self._tensors
        ]
        if settings.max_grad_norm:
            squares = torch.stack([g.square().flatten(1).sum(1) for g in gradients]).sum(0)
            # 1e-6 as in torch.nn.utils.clip_grad_norm_
            share = (settings.max_grad_norm / (squares.sqrt() + 1e-6)).clamp_max(1.0)
            for gradient in gradients:
                gradient.mul_(_column(share, gradient))
        done = self.steps[places]
        rate = torch.tensor(
            [
                learning_rate(settings, step, self._total[task])
                for task, step in zip(tasks, done.tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
        beta1, beta2 = settings.betas
        correction1 = 1 - torch.tensor(beta1, dtype=torch.float64) ** (done + 1)
        correction2 = (1 - torch.tensor(beta2, dtype=torch.float64) ** (done + 1)).sqrt()
        for tensor, anchor, gradient, first, second in zip(
            self._tensors, self._anchors, gradients, self._first, self._second, strict=True
        ):
            weight = tensor[index] * _column(1 - rate * settings.weight_decay, gradient)
            if anchor is not None:
                weight += anchor[index] * _column(rate * settings.weight_decay, gradient)
            mean = first[index].lerp_(gradient, 1 - beta1)
            square = second[index].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = (square.sqrt() / _column(correction2, gradient)).add_(settings.eps)
            weight -= _column(rate / correction1, gradient) * (mean / root)
            tensor.index_copy_(0, index, weight)
            first.index_copy_(0, index, mean)
            second.index_copy_(0, index, square)
            tensor.grad = None
        self.steps[places] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Moments by place, and the step counts."""
        state = {"steps": self.steps}
        for place, (first, second) in enumerate(zip(self._first, self._second, strict=True)):
            state |= {f"first.{place}": first, f"second.{place}": second}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave."""
        for key, value in self.state_dict().items():
            value.copy_(state[key])


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One number a task, to multiply [tasks, ...] with."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))
