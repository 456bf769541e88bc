"""Many adapters trained side by side: their stacked weights, and an optimiser that keeps them apart."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self, final

import torch
from torch import Tensor, nn

from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.config import AdamWSection
from text_to_lora.training.static import StaticAdapter


class TaskAdapters(nn.Module, ABC):
    """Adapters of many tasks, from parameters whose first dimension is the task.

    spec: of the adapters
    """

    spec: LoraSpec

    @abstractmethod
    def forward(self, embeddings: Tensor) -> LoraWeights:
        """Every adapter, differentiable; `embeddings` are not read."""

    def weights(self) -> LoraWeights:
        """Every adapter, without gradient; may be views."""
        weights: LoraWeights = self(torch.empty(0, 0))
        return weights.detach()


@final
class StackedAdapters(TaskAdapters):
    """One trainable LoRA for each of many tasks, all from the same start.

    Starts as PEFT does (see StaticAdapter). One start for all, since a hypernetwork that is to
    reconstruct the adapters then has only what training changed to tell apart.
    Source: Text-to-LoRA (arXiv 2506.06105), released code, where all oracle adapters share a seed.
    """

    def __init__(
        self, spec: LoraSpec, num_tasks: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.num_tasks = num_tasks
        start = StaticAdapter(spec, generator)
        self.a = nn.ParameterList(p.data.repeat(num_tasks, 1, 1, 1) for p in start.a)
        self.b = nn.ParameterList(p.data.repeat(num_tasks, 1, 1, 1) for p in start.b)

    @classmethod
    def from_weights(cls, weights: LoraWeights) -> Self:
        """One trainable LoRA for each of these adapters, starting as a copy of it, in float32."""
        adapters = cls(weights.spec, weights.num_adapters, torch.Generator())
        with torch.no_grad():
            for parameters, factors in ((adapters.a, weights.a), (adapters.b, weights.b)):
                for parameter, factor in zip(parameters, factors.values(), strict=True):
                    parameter.copy_(factor)
        return adapters.to(weights.device)

    def forward(self, embeddings: Tensor) -> LoraWeights:
        """See TaskAdapters.forward."""
        keys = [group.key for group in self.spec.groups]
        return LoraWeights(
            self.spec,
            dict(zip(keys, self.a, strict=True)),
            dict(zip(keys, self.b, strict=True)),
        )


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
        self._total = torch.tensor(total_steps)
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
            keep = (settings.max_grad_norm / (squares.sqrt() + 1e-6)).clamp_max(1.0)
            for gradient in gradients:
                gradient.mul_(_column(keep, gradient))
        done = self.steps[places]
        rate = settings.lr * schedule_factor(settings, done, self._total[places])
        count = done + 1
        beta1, beta2 = settings.betas
        correction1 = 1 - torch.tensor(beta1, dtype=torch.float64) ** count
        correction2 = (1 - torch.tensor(beta2, dtype=torch.float64) ** count).sqrt()
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
        self.steps.copy_(state["steps"])
        for place, (first, second) in enumerate(zip(self._first, self._second, strict=True)):
            first.copy_(state[f"first.{place}"])
            second.copy_(state[f"second.{place}"])


def schedule_factor(settings: AdamWSection, step: Tensor, total: Tensor) -> Tensor:
    """Share of the peak learning rate at steps counted from 0, as get_scheduler of transformers.

    step, total: of each task, [tasks]
    """
    warmup = (settings.warmup * total).round()
    rising = step / warmup.clamp_min(1)
    if settings.schedule == "constant":
        falling = torch.ones_like(rising)
    else:
        passed = (step - warmup) / (total - warmup).clamp_min(1)
        linear = settings.schedule == "linear"
        falling = 1 - passed if linear else 0.5 * (1 + torch.cos(math.pi * passed))
        falling = falling.clamp_min(0)
    return torch.where(step < warmup, rising, falling)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One number a task, to multiply [tasks, ...] with."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))
