"""SftModule: hypernetwork and frozen base; a batch in, the loss of its rows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from text_to_lora.errors import T2LError
from text_to_lora.hypernet.layers import HeadLinear, has_fast_product
from text_to_lora.hypernet.model import Hypernetwork
from text_to_lora.hypernet.token_reader import TokenReader
from text_to_lora.hypernet.tokens import TokenStates
from text_to_lora.inference.rows import Noise, answer_logits
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.config import ObjectiveSection
from text_to_lora.training.data import Batch, Part
from text_to_lora.training.joint import TaskAdapters
from text_to_lora.training.losses import (
    answer_losses,
    are_answers_exact,
    distillation_kl,
    weight_penalty,
)
from text_to_lora.training.static import StaticAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@final
class SftModule(nn.Module):
    """Gives the loss of a batch, with its gradient on the hypernetwork.

    hypernet: what is trained; base: frozen here, and in eval mode whatever the mode of the module
    objective: the loss; reader: gives the base's token states where the hypernetwork reads them

    The base is no submodule, so that state, optimiser and gradient reduction hold the hypernetwork
    alone. It runs part by part inside `forward`, each part's backward at once, so that the
    activations of one part are in memory at a time; what reaches A and B is handed on to the
    hypernetwork, which runs once a step for each distinct description; with a base in bfloat16 its
    widest products run in that dtype as well.
    """

    def __init__(
        self,
        hypernet: Hypernetwork | StaticAdapter | TaskAdapters,
        base: PreTrainedModel,
        objective: ObjectiveSection,
        *,
        gradient_checkpointing: bool = False,
        reader: TokenReader | None = None,
    ) -> None:
        super().__init__()
        self.hypernet = hypernet
        frozen: nn.Module = base
        frozen.requires_grad_(False).eval()
        if gradient_checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
            for layer in base.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = (
                        True  # a layer checkpoints in this mode only; not what it holds
                    )
        if base.dtype == torch.bfloat16 and has_fast_product(base.dtype, base.device):
            for layer in hypernet.modules():
                if isinstance(layer, HeadLinear):  # the base rounds the factors to bfloat16 anyway
                    layer.compute_dtype = base.dtype
        self._base = (base,)  # in a tuple, which nn.Module does not register
        self._objective = objective
        self._reader = reader

    @property
    def base(self) -> PreTrainedModel:
        """The frozen base model."""
        return self._base[0]

    def forward(self, batch: Batch) -> Tensor:
        """This process's share of the step's loss: its rows' sum over `total_rows`, in nats.

        Differentiable in the hypernetwork's parameters, once.

        Raises T2LError naming the tasks when a row's loss is not finite.
        """
        weights = self._generate(batch)
        factors = _factors(weights)
        gradients: list[Tensor] = []
        total = batch.embeddings.new_zeros(())
        for part in batch.parts:
            # Only the adapters of these rows, as leaves that catch the gradient.
            used = sorted(set(self._rows(part, weights)))
            whole = len(used) == weights.num_adapters
            leaves = weights.detach() if whole else weights.detach().select(used)
            for leaf in _factors(leaves):
                leaf.requires_grad_()
            total += self._run_part(part, leaves, used, batch.total_rows)
            if whole and len(batch.parts) == 1:
                gradients = [_gradient(leaf) for leaf in _factors(leaves)]
                continue
            gradients = gradients or [torch.zeros_like(f, dtype=torch.float32) for f in factors]
            index = torch.tensor(used, device=total.device)
            for gradient, leaf in zip(gradients, _factors(leaves), strict=True):
                gradient.index_add_(0, index, _gradient(leaf).float())
        carry: Callable[..., Tensor] = _Carry.apply
        loss = carry(total, gradients, *factors)
        if self._objective.weight_penalty:
            rows = [row for part in batch.parts for row in self._rows(part, weights)]
            penalty = weight_penalty(weights)[rows].sum() / batch.total_rows
            loss = loss + self._objective.weight_penalty * penalty
        return loss

    def validate(self, batch: Batch) -> Tensor:
        """Cross-entropy of every row without smoothing, noise or dropout, in nats a token."""
        return self.measure(batch)[0]

    @torch.no_grad()
    def measure(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What `validate` gives, and whether each row's answer is the greedy one, [rows] each."""
        hypernet = self.hypernet.eval()
        weights = hypernet(self._embeddings(batch), **self._states(batch))
        losses, exact = [], []
        for part in batch.parts:
            with answer_logits(
                self.base, part.student, weights, self._rows(part, weights)
            ) as logits:
                losses.append(answer_losses(logits, part.student))
                exact.append(are_answers_exact(logits, part.student))
        return torch.cat(losses), torch.cat(exact)

    def _generate(self, batch: Batch) -> LoraWeights:
        """The adapters of the whole step, with the step's own dropout."""
        embeddings = self._embeddings(batch)
        devices = [embeddings.device] if embeddings.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch.seed)
            weights: LoraWeights = self.hypernet(embeddings, **self._states(batch))
        return weights

    def _embeddings(self, batch: Batch) -> Tensor:
        """Task embeddings to generate from; a static adapter serves every row with one."""
        static = isinstance(self.hypernet, StaticAdapter)
        return batch.embeddings[:1] if static else batch.embeddings

    def _states(self, batch: Batch) -> dict[str, TokenStates]:
        """Token states of the step's descriptions, where the hypernetwork reads them."""
        return {} if self._reader is None else {"states": self._reader(batch.texts)}

    @staticmethod
    def _rows(part: Part, weights: LoraWeights) -> tuple[int, ...]:
        """The adapter of each row."""
        return part.rows if weights.num_adapters > 1 else (0,) * len(part.rows)

    def _run_part(self, part: Part, own: LoraWeights, used: list[int], total_rows: int) -> Tensor:
        """Run rows through the base and leave their gradient on `own`; gives their share.

        used: the numbers in the batch of the adapters in `own`
        """
        objective, student = self._objective, part.student
        teacher_logits = None
        if part.teacher is not None:
            with torch.no_grad(), answer_logits(self.base, part.teacher) as teacher_logits:
                pass
        rows = [used.index(row) for row in part.rows] if len(used) > 1 else None
        with answer_logits(self.base, student, own, rows, noise=self._noise(part)) as logits:
            swapped = torch.tensor(part.swapped, device=logits.device)
            losses = logits.new_zeros(len(student), dtype=torch.float32)
            if objective.ce_weight:
                smoothing = objective.label_smoothing
                cross_entropy = answer_losses(logits, student, label_smoothing=smoothing)
                losses = losses + objective.ce_weight * cross_entropy.masked_fill(swapped, 0.0)
            if part.teacher is not None and teacher_logits is not None:
                taught = torch.tensor(part.taught, device=logits.device)
                is_taught = torch.isin(student.of_row, taught)
                kl = distillation_kl(logits[is_taught], teacher_logits, part.teacher)
                weight = torch.where(
                    swapped[taught], objective.swapped_weight, objective.distill_weight
                )
                losses = losses.index_add(0, taught, weight * kl)
            finite = losses.detach().isfinite()
            if not finite.all():
                bad = {name for name, ok in zip(part.task_names, finite, strict=True) if not ok}
                raise T2LError(f"the loss of {', '.join(sorted(bad))} is not finite")
            share = losses.sum() / total_rows
            torch.autograd.backward(share)  # in the block, as gradient checkpointing needs
        return share.detach()

    def _noise(self, part: Part) -> Noise | None:
        """NEFTune: uniform noise on the input embeddings of every row, from the row's own seed.

        Source: Jain et al. (2023), arXiv 2310.05914; here a row's length is that of its own tokens,
        so that noise does not depend on padding.
        """
        alpha = self._objective.neftune_alpha
        if not alpha:
            return None

        def draw(row: int, embeddings: Tensor) -> Tensor:
            generator = torch.Generator(embeddings.device).manual_seed(part.noise_seeds[row])
            bound = alpha / embeddings.numel() ** 0.5
            return torch.empty_like(embeddings).uniform_(-bound, bound, generator=generator)

        return draw


def _factors(weights: LoraWeights) -> list[Tensor]:
    """A of every group, then B of every group."""
    return [*weights.a.values(), *weights.b.values()]


def _gradient(leaf: Tensor) -> Tensor:
    """The gradient that reached a factor; zeros where none did."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class _Carry(torch.autograd.Function):
    """A number whose gradient in some tensors is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        """Give `value`; `gradients` are of it in `tensors`."""
        ctx.gradients = [g.to(t.dtype) for g, t in zip(gradients, tensors, strict=True)]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradients on."""
        return None, None, *[gradient.mul_(outputs[0]) for gradient in ctx.gradients]
