"""SftModule: adapters on a frozen base; a batch in, the loss of its rows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from text_to_lora.errors import T2LError
from text_to_lora.hypernet.layers import HeadLinear, has_fast_product
from text_to_lora.inference.rows import Noise, answer_logits
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.training.batches import Batch, Part
from text_to_lora.training.losses import answer_losses, are_answers_exact, weight_penalty
from text_to_lora.training.step_adapters import StepAdapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@final
class SftModule(nn.Module):
    """Gives the loss of a batch, with its gradient on what gives the step its adapters.

    adapters: what is trained; base: frozen here, and in eval mode whatever the mode of the module
    label_smoothing: share of the target spread over the vocabulary, in training
    neftune_alpha: noise on input embeddings, uniform to ± alpha / sqrt(tokens · hidden)
    penalty: factor of mean(A²) + mean(B²), summed over groups

    The base is no submodule, so that state, optimiser and gradient reduction hold the adapters
    alone. It runs part by part inside `forward`, each part's backward at once, so that the
    activations of one part are in memory at a time; what reaches A and B is handed on to the
    adapters, which are made once a step; with a base in bfloat16 the widest products of a
    hypernetwork run in that dtype as well.
    """

    def __init__(
        self,
        adapters: StepAdapters,
        base: PreTrainedModel,
        *,
        label_smoothing: float = 0.0,
        neftune_alpha: float = 0.0,
        penalty: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.adapters = adapters
        frozen: nn.Module = base
        frozen.requires_grad_(False).eval()
        if gradient_checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
            for layer in base.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    # A layer checkpoints in training mode only; what it holds stays in eval mode.
                    layer.training = True
        if base.dtype == torch.bfloat16 and has_fast_product(base.dtype, base.device):
            for layer in adapters.modules():
                if isinstance(layer, HeadLinear):  # the base rounds the factors to bfloat16 anyway
                    layer.compute_dtype = base.dtype
        self._base = (base,)  # in a tuple, which nn.Module does not register
        self._label_smoothing = label_smoothing
        self._neftune_alpha = neftune_alpha
        self._penalty = penalty

    @property
    def base(self) -> PreTrainedModel:
        """The frozen base model."""
        return self._base[0]

    def forward(self, batch: Batch) -> Tensor:
        """This process's share of the step's loss: its rows' sum over `total_rows`, in nats.

        Differentiable in the parameters of the adapters, once.

        Raises T2LError naming the tasks when a row's loss is not finite.
        """
        weights = self._step_weights(batch)
        factors = _factors(weights)
        gradients: list[Tensor] = []
        total = batch.embeddings.new_zeros(())
        for part in batch.parts:
            # Only the adapters of these rows, as leaves that catch the gradient.
            used = sorted(set(self._places(part, weights)))
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
        if self._penalty:
            places = [place for part in batch.parts for place in self._places(part, weights)]
            penalty = weight_penalty(weights)[places].sum() / batch.total_rows
            loss = loss + self._penalty * penalty
        return loss

    @torch.no_grad()
    def measure(self, batch: Batch, *, adapted: bool = True) -> tuple[Tensor, Tensor]:
        """How well adapters answer, without smoothing, noise or dropout, [rows] each.

        adapted: False lets the base alone answer
        Gives the cross-entropy of every row in nats a token, and whether its answer is the greedy
        one.
        """
        self.adapters.eval()
        weights = self.adapters(batch.embeddings, batch.texts)
        if not adapted:  # the same path, so that a start that changes nothing has equal losses
            b = {key: torch.zeros_like(factor) for key, factor in weights.b.items()}
            weights = LoraWeights(weights.spec, weights.a, b)
        losses, exact = [], []
        for part in batch.parts:
            places = self._places(part, weights)
            with answer_logits(self.base, part.rows, weights, places) as logits:
                losses.append(answer_losses(logits, part.rows))
                exact.append(are_answers_exact(logits, part.rows))
        return torch.cat(losses), torch.cat(exact)

    def _step_weights(self, batch: Batch) -> LoraWeights:
        """The adapters of the whole step, with the step's own dropout."""
        devices = [batch.embeddings.device] if batch.embeddings.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch.seed)
            weights: LoraWeights = self.adapters(batch.embeddings, batch.texts)
        return weights

    @staticmethod
    def _places(part: Part, weights: LoraWeights) -> tuple[int, ...]:
        """The adapter of each row."""
        return part.adapters if weights.num_adapters > 1 else (0,) * len(part.adapters)

    def _run_part(
        self, part: Part, weights: LoraWeights, used: list[int], total_rows: int
    ) -> Tensor:
        """Run rows through the base and leave their gradient on `weights`; gives their share.

        used: the numbers in the batch of the adapters in `weights`
        """
        places = [used.index(place) for place in part.adapters] if len(used) > 1 else None
        with answer_logits(
            self.base, part.rows, weights, places, noise=self._noise(part)
        ) as logits:
            losses = answer_losses(logits, part.rows, label_smoothing=self._label_smoothing)
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
        alpha = self._neftune_alpha
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
