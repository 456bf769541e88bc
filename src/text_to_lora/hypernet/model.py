"""Hypernetwork: task embeddings to LoraWeights, all slots and all tasks in one pass."""

from __future__ import annotations

from typing import Final, Self, final

import torch
from torch import Tensor, nn

from text_to_lora.errors import SpecError
from text_to_lora.hypernet.backbone import Backbone
from text_to_lora.hypernet.config import HypernetConfig
from text_to_lora.hypernet.heads import HEADS, Factors, Head
from text_to_lora.hypernet.layers import draw_parameters
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

    def __init__(self, config: HypernetConfig, spec: LoraSpec) -> None:
        super().__init__()
        self.config: Final = config
        self.spec: Final = spec
        layers = sorted({slot.layer for slot in spec.slots})
        layer_of_slot = [n for group in spec.groups for n in group.layers]
        self.backbone = Backbone(
            embedding_dim=config.embedding_dim,
            task_vector_dim=config.task_vector_dim,
            depth_index=[layers.index(n) for n in layer_of_slot],
            type_index=[i for i, group in enumerate(spec.groups) for _ in group.layers],
            latent_size=config.latent_size,
            head_in_size=config.head_in_size,
            dropout=config.dropout,
        )
        self.head: Head = HEADS[config.head](
            groups=spec.groups,
            rank=spec.rank,
            latent_size=config.latent_size,
            head_in_size=config.head_in_size,
            bias=config.head_bias,
        )
        self.output: Output = Direct()
        if config.output == "zscore":
            self.output = ZScore(spec.groups, spec.rank)
        elif config.output == "delta":
            self.output = Delta(config.delta_scaling)
        self.attention: TokenAttention | None = None
        self.memory: WordMemory | None = None
        if tokens := config.tokens:
            size = config.latent_size
            levels = [n // tokens.layer_stride for n in layer_of_slot]
            self.attention = TokenAttention(tokens, latent_size=size, levels=levels)
            if tokens.direct:
                self.memory = WordMemory(tokens, spec, latent_size=size, levels=levels)

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
        draw_parameters(network, generator)
        if config.output == "direct" and as_lora:
            network.head.start_as_lora(generator)
        for part in (network.attention, network.memory):
            if part is not None:
                part.start()
        return network

    @classmethod
    def empty(cls, config: HypernetConfig, spec: LoraSpec) -> Self:
        """Build on the meta device, without numbers; `load_state_dict(..., assign=True)` fills it."""
        with torch.device("meta"):
            return cls(config, spec)

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
            # fp32, or as the weights where they are wider
            dtype = torch.promote_types(self.dtype, torch.float32)
            latent: Tensor = self.backbone(embeddings.to(dtype))
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
        """The dtype of the weights and of the adapters."""
        return next(self.parameters()).dtype

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())
