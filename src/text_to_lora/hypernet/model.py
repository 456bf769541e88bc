"""Hypernetwork: task embeddings to LoraWeights, all slots and all tasks in one pass."""

from __future__ import annotations

from typing import Any, Final, Self, final

import torch
from torch import Tensor, nn

from text_to_lora.errors import SpecError
from text_to_lora.hypernet.backbone import Backbone
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.heads import HEADS, Factors, Head
from text_to_lora.hypernet.initialisation import draw
from text_to_lora.hypernet.outputs import Delta, Direct, Output, ZScore
from text_to_lora.hypernet.tokens import TokenAttention, TokenStates, WordMemory
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights


@final
class Hypernetwork(nn.Module):
    """Predicts the LoRA weights of a task from its task embedding.

    config: sizes and variant; spec: of the adapters that it predicts
    Weights in bfloat16 give adapters in bfloat16. The backbone computes in fp32 whatever their
    dtype, and so do the heads on a device without fast bfloat16 products (see layers.HeadLinear).
    Source: Text-to-LoRA (arXiv 2506.06105), equations 3 and 4.
    """

    def __init__(
        self,
        config: HypernetConfig,
        spec: LoraSpec,
        *,
        backbone: Backbone,
        head: Head,
        output: Output,
        attention: TokenAttention | None = None,
        memory: WordMemory | None = None,
    ) -> None:
        super().__init__()
        self.config: Final = config
        self.spec: Final = spec
        self.backbone = backbone
        self.head = head
        self.output = output
        self.attention = attention
        self.memory = memory

    @classmethod
    def from_config(
        cls,
        config: HypernetConfig,
        spec: LoraSpec,
        generator: torch.Generator | None = None,
        *,
        as_lora: bool = True,
    ) -> Self:
        """Build with fresh weights, on the CPU and in fp32.

        generator: of all draws; None for torch's own
        as_lora: direct output starts as one fresh LoRA for all tasks (Bias-HyperInit); False, and
            the other outputs, start with torch's default, as in the reference
        """
        network = cls.empty(config, spec)
        blank = {name: torch.empty(t.shape) for name, t in network.state_dict().items()}
        network.load_state_dict(blank, assign=True)
        draw(network, generator)
        if config.output == "direct" and as_lora:
            network.head.start_as_lora(generator)
        for part in (network.attention, network.memory):
            if part is not None:
                part.start()
        return network

    @classmethod
    def empty(cls, config: HypernetConfig, spec: LoraSpec) -> Self:
        """Build on the meta device, without numbers; `load_state_dict(..., assign=True)` fills it."""
        layers = sorted({slot.layer for slot in spec.slots})
        tokens, attention, memory = config.tokens, None, None
        with torch.device("meta"):
            if tokens is not None:
                sizes: dict[str, Any] = {
                    "latent_size": config.latent_size,
                    "levels": [n // tokens.layer_stride for g in spec.groups for n in g.layers],
                }
                attention = TokenAttention(tokens, **sizes)
                if tokens.direct:
                    memory = WordMemory(tokens, groups=spec.groups, rank=spec.rank, **sizes)
            return cls(
                config,
                spec,
                backbone=Backbone(
                    embedding_dim=config.embedding_dim,
                    task_vector_dim=config.task_vector_dim,
                    depth_index=[layers.index(n) for g in spec.groups for n in g.layers],
                    type_index=[i for i, group in enumerate(spec.groups) for _ in group.layers],
                    latent_size=config.latent_size,
                    head_in_size=config.head_in_size,
                    dropout=config.dropout,
                ),
                head=HEADS[config.head](
                    groups=spec.groups,
                    rank=spec.rank,
                    latent_size=config.latent_size,
                    head_in_size=config.head_in_size,
                    bias=config.head_bias,
                ),
                output=_make_output(config, spec),
                attention=attention,
                memory=memory,
            )

    def forward(self, embeddings: Tensor, states: TokenStates | None = None) -> LoraWeights:
        """Predict one adapter for each task embedding, [tasks, embedding_dim].

        states: the base's states of the same descriptions, where the network reads them

        Gradients flow; autocast is ignored, since the factors need fp32.

        Raises SpecError when the embeddings are not of the width that the network was built for.
        """
        return LoraWeights(self.spec, *self.output(*self.predict(embeddings, states)))

    def predict(
        self, embeddings: Tensor, states: TokenStates | None = None
    ) -> tuple[Factors, Factors]:
        """What the heads predict, before `output` turns it into factors; errors as in `forward`.

        Returns per group key A [tasks, slots, rank, in] and B [tasks, slots, out, rank].
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.embedding_dim:
            raise SpecError(
                f"task embeddings are {tuple(embeddings.shape)}; "
                f"[tasks, {self.config.embedding_dim}] is needed; use the encoder of this network"
            )
        if (states is None) != (self.attention is None):
            raise SpecError(
                "this hypernetwork reads the base's token states of a description; give them"
                if states is None
                else "this hypernetwork reads no token states; leave them out"
            )
        return self.decode(self.codes(embeddings, states), states)

    def codes(self, embeddings: Tensor, states: TokenStates | None = None) -> Tensor:
        """The latent codes that the heads read, [tasks, slots, latent]; inputs as in `predict`."""
        with torch.autocast(embeddings.device.type, enabled=False):
            latent: Tensor = self.backbone(embeddings.to(self._compute_dtype))
            if states is not None and self.attention is not None:
                latent = self.attention(latent, states)
        return latent

    def decode(self, latent: Tensor, states: TokenStates | None = None) -> tuple[Factors, Factors]:
        """What the heads predict from latent codes [tasks, slots, latent]; result as of `predict`."""
        with torch.autocast(latent.device.type, enabled=False):
            factors: tuple[Factors, Factors] = self.head(latent, self.backbone)
            if states is not None and self.memory is not None:
                self.memory(factors, latent, states)
        return factors

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of the adapters."""
        return next(self.parameters()).dtype

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def _compute_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)


def _make_output(config: HypernetConfig, spec: LoraSpec) -> Output:
    if config.output == "zscore":
        return ZScore(spec.groups, spec.rank)
    return Delta(config.delta_scaling) if config.output == "delta" else Direct()
