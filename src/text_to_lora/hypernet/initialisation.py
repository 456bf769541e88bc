"""The start of training: torch's default initialisation, drawn from an explicit generator."""

from __future__ import annotations

import math

import torch
from torch import nn

from text_to_lora.hypernet.heads import _SideHead
from text_to_lora.hypernet.outputs import _Moments


@torch.no_grad()
def draw(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all parameters: linear layers U(-1/sqrt(in), 1/sqrt(in)), embeddings and codes N(0, 1).

    LayerNorm starts at weight 1 and bias 0; a library's moments at mean 0 and deviation 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, _SideHead):
            module.side_codes.normal_(generator=generator)
        elif isinstance(module, _Moments):
            module.mean.zero_()
            module.std.fill_(1.0)
