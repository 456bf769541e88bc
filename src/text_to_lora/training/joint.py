"""Many adapters trained side by side: rows of like length share a pass, each adapter is as if alone."""

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
from text_to_lora.training.batches import Batch, Part
from text_to_lora.training.config import AdamWSection
from text_to_lora.training.encoding import RowEncoder
from text_to_lora.training.module import SftModule
from text_to_lora.training.optimizer import TaskwiseAdamW
from text_to_lora.training.step_adapters import read_weights


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
        seed: int = 0,
        pull_to_start: bool = False,
    ) -> None:
        self.jobs = list(jobs)
        self.adapters = module.adapters
        self._module = module
        self._encoder = encoder
        self._tokens_per_pass = tokens_per_pass
        self.learning_rate = optimizer.lr
        self._seed = seed
        self._parameters = list(self.adapters.parameters())
        anchors = [p.detach().clone() for p in self._parameters] if pull_to_start else None
        lengths = [job.num_steps for job in jobs]
        self._optimizer = TaskwiseAdamW(self._parameters, optimizer, lengths, anchors)
        self._best = [parameter.detach().clone() for parameter in self._parameters]

    @property
    def steps(self) -> list[int]:
        """Steps taken of each job."""
        taken: list[int] = self._optimizer.steps.tolist()
        return taken

    def step(self, present: Sequence[int]) -> tuple[float, int]:
        """Take the next step of these jobs; gives their mean loss and the tokens that it took.

        Raises T2LError naming the tasks whose loss is not finite, the step and the learning rate.
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
                raise T2LError(
                    f"{error} at step {steps[present[0]] + 1}; the learning rate is "
                    f"{self.learning_rate:g}, lower it"
                ) from None
            loss.backward()
            total += float(loss.detach())
            tokens += batch.size
        self._optimizer.step(present)
        return total / len(present), tokens

    def measure(
        self,
        jobs: Sequence[int],
        rows: Sequence[Sequence[tuple[str, str]]] | None = None,
        *,
        adapted: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """How well each of these jobs' adapters answers its rows, [jobs] each; NaN without rows.

        rows: (input, answer) for each of the jobs; None for their selection rows
        adapted: False lets the base alone answer
        Gives the mean loss in nats a token, and the share of rows whose greedy answer is right.
        """
        rows = [self.jobs[place].selection for place in jobs] if rows is None else rows
        drawn = [
            (place, number, row)
            for place, job_rows in zip(jobs, rows, strict=True)
            for number, row in enumerate(job_rows)
        ]
        sums = torch.zeros(3, len(self.jobs), dtype=torch.float64)  # loss, right answers, rows
        if drawn:
            batch = self._batch(drawn, 1)
            losses, exact = (
                figure.cpu().double() for figure in self._module.measure(batch, adapted=adapted)
            )
            owners = torch.tensor([place for part in batch.parts for place in part.adapters])
            sums.index_add_(1, owners, torch.stack([losses, exact, torch.ones_like(losses)]))
        index = torch.tensor(jobs, dtype=torch.long)
        return (sums[0] / sums[2])[index], (sums[1] / sums[2])[index]

    def keep(self, jobs: Sequence[int]) -> None:
        """Take the weights of these jobs as the best so far."""
        index = torch.tensor(jobs, dtype=torch.long)
        for best, parameter in zip(self._best, self._parameters, strict=True):
            on_device = index.to(best.device)
            best.index_copy_(0, on_device, parameter.detach()[on_device])

    def weights(self) -> LoraWeights:
        """The adapters of all jobs as they are; may be views."""
        return read_weights(self.adapters)

    def best(self) -> LoraWeights:
        """The best state of every job, as one batch."""
        names = [name for name, _ in self.adapters.named_parameters()]
        best = dict(zip(names, self._best, strict=True))
        weights: LoraWeights = functional_call(self.adapters, best, (torch.empty(0, 0), ()))
        return weights.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that going on depends on."""
        state = {f"optimizer.{key}": value for key, value in self._optimizer.state_dict().items()}
        for place, (parameter, best) in enumerate(zip(self._parameters, self._best, strict=True)):
            state |= {f"weight.{place}": parameter.detach(), f"best.{place}": best}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave."""
        for key, value in self.state_dict().items():
            value.copy_(state[key])

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
                    rows=self._encoder.join((*row, None) for _, _, row in chosen),
                    adapters=tuple(place for place, _, _ in chosen),
                    task_names=tuple(self.jobs[place].name for place, _, _ in chosen),
                    noise_seeds=tuple(self._noise_seed(place, n) for place, n, _ in chosen),
                )
            )
        batch = Batch(tuple(parts), torch.empty(0, 0), texts=(), total_rows=divisor)
        return batch.to(self._parameters[0].device)

    def _passes(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The places of rows that run through the base together, from their lengths in tokens.

        Packed rows need not be of like length; those of one job then stay together, so that few
        adapters run in a pass.
        """
        if takes_packed_rows(self._module.base, max(lengths)):
            return split_in_order(lengths, self._tokens_per_pass)
        return split_by_tokens(lengths, self._tokens_per_pass)

    def _noise_seed(self, place: int, number: int) -> int:
        step = int(self._optimizer.steps[place])
        return Random(f"{self._seed}/noise/{self.jobs[place].name}/{step}/{number}").getrandbits(62)
