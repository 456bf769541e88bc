"""Stacked adapters and their optimiser, against torch's own run on each task alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import get_scheduler

from text_to_lora.lora import LoraSpec
from text_to_lora.training.config import AdamWSection
from text_to_lora.training.optimizer import TaskwiseAdamW, learning_rate
from text_to_lora.training.step_adapters import StackedAdapters, read_weights
from tiny_models import make_config

NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("total", [1, 7, 40])
def test_schedule_is_that_of_transformers(schedule: Any, total: int) -> None:
    settings = AdamWSection(lr=1.0, schedule=schedule, warmup=0.15)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = get_scheduler(NAMES[schedule], optimizer, round(0.15 * total), total)
    for step in range(total):
        assert learning_rate(settings, step, total) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def gradients(task: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * task + step)
    size = 10.0 ** ((task + step) % 3 - 1)  # some are clipped, some are not
    return (
        size * torch.randn(3, 2, generator=generator),
        size * torch.randn(5, generator=generator),
    )


def test_each_task_is_stepped_as_by_an_optimiser_of_its_own() -> None:
    settings = AdamWSection(lr=0.1, weight_decay=0.3, max_grad_norm=1.0, warmup=0.3)
    totals = [9, 4, 6]
    present = [(0, 1, 2), (2,), (0, 2), (1, 0), (0, 1, 2), (1,)]
    start = torch.Generator().manual_seed(0)
    stacked = [torch.randn(3, 3, 2, generator=start), torch.randn(3, 5, generator=start)]
    alone = [[t[task].clone().requires_grad_() for t in stacked] for task in range(3)]
    parameters = [t.clone().requires_grad_() for t in stacked]
    joint = TaskwiseAdamW(parameters, settings, totals)
    optimizers = [
        torch.optim.AdamW(single, lr=0.1, weight_decay=0.3, betas=settings.betas)
        for single in alone
    ]
    schedules = [
        get_scheduler("linear", optimizer, round(0.3 * total), total)
        for optimizer, total in zip(optimizers, totals, strict=True)
    ]
    counts = [0, 0, 0]
    for tasks in present:
        before = [p.detach().clone() for p in parameters]
        state = {key: value.clone() for key, value in joint.state_dict().items()}
        for parameter, size in zip(parameters, ((3, 3, 2), (3, 5)), strict=True):
            parameter.grad = torch.full(size, 7.0)  # of absent tasks: must not count
        for task in tasks:
            drawn = gradients(task, counts[task])
            for parameter, single, gradient in zip(parameters, alone[task], drawn, strict=True):
                assert parameter.grad is not None
                parameter.grad[task] = gradient
                single.grad = gradient.clone()
            torch.nn.utils.clip_grad_norm_(alone[task], 1.0)
            optimizers[task].step()
            schedules[task].step()
            counts[task] += 1
        joint.step(tasks)
        for task in range(3):
            for parameter, single, old in zip(parameters, alone[task], before, strict=True):
                if task in tasks:
                    torch.testing.assert_close(parameter[task], single)
                else:
                    assert torch.equal(parameter[task], old[task])
            if task not in tasks:
                for key, value in joint.state_dict().items():
                    assert torch.equal(value[task], state[key][task])
    assert joint.steps.tolist() == counts


def test_all_adapters_start_alike_and_change_nothing() -> None:
    spec = LoraSpec.from_config(make_config(), targets="all-linear", rank=2, alpha=4)
    weights = read_weights(StackedAdapters(spec, 3, torch.Generator().manual_seed(1)))
    assert weights.num_adapters == 3
    for key in weights.a:
        assert torch.equal(weights.a[key][0], weights.a[key][2])
        assert not weights.b[key].any()
        assert weights.a[key].std() > 0


def test_decay_pulls_each_task_towards_its_own_anchor() -> None:
    anchors = torch.tensor([[1.0, 2.0], [-3.0, 0.0]])
    parameter = torch.zeros(2, 2, requires_grad=True)
    settings = AdamWSection(lr=0.1, schedule="constant", warmup=0.0, weight_decay=0.5)
    optimizer = TaskwiseAdamW([parameter], settings, [4, 4], [anchors])
    for tasks in ([0, 1], [0], [0]):
        optimizer.step(tasks)  # without gradients, the decay alone moves
    distance = torch.tensor([0.95**3, 0.95])[:, None]
    torch.testing.assert_close(parameter.detach(), anchors * (1 - distance))


def test_adapters_start_from_given_ones() -> None:
    spec = LoraSpec.from_config(make_config(), targets="all-linear", rank=2, alpha=4)
    given = read_weights(StackedAdapters(spec, 2, torch.Generator().manual_seed(1)))
    for place, factor in enumerate((*given.a.values(), *given.b.values())):
        factor += place
    weights = read_weights(StackedAdapters.from_weights(given))
    for key in given.a:
        assert torch.equal(weights.a[key], given.a[key])
        assert torch.equal(weights.b[key], given.b[key])
        assert weights.a[key].data_ptr() != given.a[key].data_ptr()
