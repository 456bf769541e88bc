"""Trains many adapters at once: rows of like length share a pass, each adapter is as if alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.func import functional_call

from text_to_lora.errors import T2LError
from text_to_lora.inference.packing import takes_packed_rows
from text_to_lora.inference.rows import split_by_tokens, split_in_order
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.config import AdamWSection
from text_to_lora.training.data import Batch, Part, RowEncoder
from text_to_lora.training.joint import TaskAdapters, TaskwiseAdamW
from text_to_lora.training.module import SftModule


@dataclass(frozen=True)
class Job:
    """What one adapter is trained on.

    name: of the task; rows: (input, answer) in the order of training, a batch after the other
    selection: rows that choose the best state; batch_size: rows of a step
    eval_every: steps between validations
    """

    name: str
    rows: Sequence[tuple[str, str]]
    selection: Sequence[tuple[str, str]]
    batch_size: int
    eval_every: int

    @property
    def num_steps(self) -> int:
        """Steps until the rows are used up; the last may lack rows."""
        return math.ceil(len(self.rows) / self.batch_size)

    def batch(self, step: int) -> Sequence[tuple[str, str]]:
        """The rows of a step, counted from 0."""
        return self.rows[step * self.batch_size : (step + 1) * self.batch_size]


class JointTrainer:
    """Trains one adapter a job, all at once; each as if it were alone.

    module: with the adapters, one for each job, and the frozen base
    pull_to_start: weight decay is towards the state at the start instead of zero
    A step takes the next batch of every job that it is given. Rows of like length run through the
    base together, whatever their job, each with its own job's adapter.
    """

    def __init__(
        self,
        module: SftModule,
        jobs: Sequence[Job],
        encoder: RowEncoder,
        optimizer: AdamWSection,
        *,
        tokens_per_pass: int,
        patience: int | None = None,
        seed: int = 0,
        pull_to_start: bool = False,
    ) -> None:
        assert isinstance(module.hypernet, TaskAdapters)
        self.jobs = list(jobs)
        self.adapters = module.hypernet
        self._module = module
        self._encoder = encoder
        self._tokens_per_pass = tokens_per_pass
        self._patience = patience
        self._seed = seed
        self._parameters = list(self.adapters.parameters())
        anchors = [p.detach().clone() for p in self._parameters] if pull_to_start else None
        lengths = [job.num_steps for job in jobs]
        self.optimizer = TaskwiseAdamW(self._parameters, optimizer, lengths, anchors)
        self._best = [parameter.detach().clone() for parameter in self._parameters]
        blank = [math.nan] * len(jobs)
        self.base_loss = torch.tensor(blank, dtype=torch.float64)
        self.best_loss = torch.tensor(blank, dtype=torch.float64)
        self.best_step = torch.zeros(len(jobs), dtype=torch.long)
        self._misses = torch.zeros(len(jobs), dtype=torch.long)

    @property
    def live(self) -> list[int]:
        """Jobs that have steps left and have not stopped early."""
        steps, misses = self.optimizer.steps.tolist(), self._misses.tolist()
        return [
            place
            for place, job in enumerate(self.jobs)
            if steps[place] < job.num_steps
            and (self._patience is None or misses[place] < self._patience)
        ]

    @property
    def steps(self) -> list[int]:
        """Steps taken of each job."""
        taken: list[int] = self.optimizer.steps.tolist()
        return taken

    def step(self, present: Sequence[int]) -> tuple[float, int]:
        """Take the next step of these jobs; gives their mean loss and the tokens that it took.

        Raises T2LError naming the tasks whose loss is not finite, and the step.
        """
        steps = self.steps
        drawn = []
        shares: dict[int, int] = {}
        for place in present:
            rows = self.jobs[place].batch(steps[place])
            shares[place] = len(rows)
            drawn += [(place, number, row) for number, row in enumerate(rows)]
        # Rows of a job that is short of rows weigh more, so that each job's loss is a mean; jobs
        # with equally many rows run together, since a batch has one number of rows to divide by.
        total, tokens = 0.0, 0
        for count in sorted(set(shares.values())):
            batch = self._batch([item for item in drawn if shares[item[0]] == count], count)
            try:
                loss = self._module(batch)
            except T2LError as error:
                raise T2LError(f"{error} at step {steps[present[0]] + 1}") from None
            loss.backward()
            total += float(loss.detach())
            tokens += batch.num_tokens
        self.optimizer.step(present)
        return total / len(present), tokens

    def validate(self, jobs: Sequence[int]) -> Tensor:
        """Mean loss of these jobs over their selection rows, in nats a token; NaN without rows."""
        return self.measure(jobs, [self.jobs[place].selection for place in jobs])[0]

    def measure(
        self, jobs: Sequence[int], rows: Sequence[Sequence[tuple[str, str]]]
    ) -> tuple[Tensor, Tensor]:
        """How well each of these jobs' adapters answers its rows, [jobs] each; NaN without rows.

        rows: (input, answer) for each of the jobs
        Gives the mean loss in nats a token, and the share of rows whose greedy answer is right.
        """
        drawn = [
            (place, number, row)
            for place, own in zip(jobs, rows, strict=True)
            for number, row in enumerate(own)
        ]
        loss_sums, right, counts = torch.zeros(3, len(self.jobs), dtype=torch.float64)
        if drawn:
            batch = self._batch(drawn, 1)
            losses, exact = self._module.measure(batch)
            owners = torch.tensor([row for part in batch.parts for row in part.rows])
            loss_sums.index_add_(0, owners, losses.cpu().double())
            right.index_add_(0, owners, exact.cpu().double())
            counts.index_add_(0, owners, torch.ones(len(owners), dtype=torch.float64))
        index = torch.tensor(jobs, dtype=torch.long)
        return (loss_sums / counts)[index], (right / counts)[index]

    def select(self, due: Sequence[int]) -> None:
        """Validate these jobs, and keep the weights of those that are better than before."""
        if not due:
            return
        losses = self.validate(due)
        index = torch.tensor(due)
        # Without rows to select by the last state is the one that is kept.
        unselected = torch.tensor([not self.jobs[place].selection for place in due])
        for place, loss, free in zip(due, losses, unselected, strict=True):
            if not (free or loss.isfinite()):
                raise T2LError(
                    f"the validation loss of {self.jobs[place].name} is {float(loss)} at step "
                    f"{int(self.optimizer.steps[place])}; lower optimizer.lr"
                )
        better = unselected | self.best_loss[index].isnan() | (losses < self.best_loss[index])
        self._misses[index] = torch.where(better, 0, self._misses[index] + 1)
        kept = index[better]
        self.best_loss[kept] = losses[better]
        self.keep(kept.tolist())

    def keep(self, jobs: Sequence[int]) -> None:
        """Take the weights of these jobs as the best so far."""
        index = torch.tensor(jobs, dtype=torch.long)
        self.best_step[index] = self.optimizer.steps[index]
        for best, parameter in zip(self._best, self._parameters, strict=True):
            on_device = index.to(best.device)
            best.index_copy_(0, on_device, parameter.detach()[on_device])

    def best(self) -> LoraWeights:
        """The kept state of every job, as one batch."""
        names = [name for name, _ in self.adapters.named_parameters()]
        best = dict(zip(names, self._best, strict=True))
        weights: LoraWeights = functional_call(self.adapters, best, (torch.empty(0, 0),))
        return weights.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that going on depends on."""
        state = {f"optimizer.{key}": value for key, value in self.optimizer.state_dict().items()}
        for place, (parameter, best) in enumerate(zip(self._parameters, self._best, strict=True)):
            state |= {f"weight.{place}": parameter.detach(), f"best.{place}": best}
        return state | self._counters()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave."""
        prefix = "optimizer."
        self.optimizer.load_state_dict(
            {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        )
        with torch.no_grad():
            for place, (parameter, best) in enumerate(
                zip(self._parameters, self._best, strict=True)
            ):
                parameter.copy_(state[f"weight.{place}"])
                best.copy_(state[f"best.{place}"])
        for key, value in self._counters().items():
            value.copy_(state[key])

    def _counters(self) -> dict[str, Tensor]:
        return {
            "base_loss": self.base_loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "misses": self._misses,
        }

    def _batch(self, drawn: Sequence[tuple[int, int, tuple[str, str]]], divisor: int) -> Batch:
        """Rows as (job, number in its batch, row), in parts of like length.

        divisor: number that the sum of the losses is divided by
        """
        lengths = [self._encoder.length((*row, None)) for _, _, row in drawn]
        parts = []
        for places in self._passes(lengths):
            # Neighbours of one job share its adapter's product where they can.
            chosen = [drawn[place] for place in sorted(places)]
            parts.append(
                Part(
                    student=self._encoder.join((*row, None) for _, _, row in chosen),
                    teacher=None,
                    taught=(),
                    swapped=(False,) * len(chosen),
                    rows=tuple(place for place, _, _ in chosen),
                    task_names=tuple(self.jobs[place].name for place, _, _ in chosen),
                    noise_seeds=tuple(self._noise_seed(place, n) for place, n, _ in chosen),
                )
            )
        device = self._parameters[0].device
        batch = Batch(tuple(parts), torch.empty(0, 0), total_rows=divisor, seed=0)
        return batch.to(device)

    def _passes(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The places of rows that run through the base together, from their lengths in tokens.

        Packed rows need not be of like length; those of one job then stay together, so that few
        adapters run in a pass.
        """
        if takes_packed_rows(self._module.base, max(lengths)):
            return split_in_order(lengths, self._tokens_per_pass)
        return split_by_tokens(lengths, self._tokens_per_pass)

    def _noise_seed(self, place: int, number: int) -> int:
        step = int(self.optimizer.steps[place])
        return Random(f"{self._seed}/noise/{self.jobs[place].name}/{step}/{number}").getrandbits(62)
