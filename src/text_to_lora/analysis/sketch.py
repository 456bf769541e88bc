"""Sketches: short vectors of adapters, whose products stand for those of all their factors."""

from __future__ import annotations

import torch
from torch import Tensor

from text_to_lora.lora.weights import LoraWeights

_SEED = 20250606


def sketch(weights: LoraWeights, size: int) -> Tensor:
    """Add up the factors A and B of each adapter with random signs, fp32 [adapters, size].

    Equal numbers of equal specs get equal signs, so that sketches of different calls compare. The
    product of two sketches is that of the two adapters' factors in expectation; its error falls with
    the root of `size`. Needs one pass over the factors and no matrix.

    Source: count sketch (Charikar, Chen and Farach-Colton 2002).
    """
    generator = torch.Generator().manual_seed(_SEED)
    summed = torch.zeros(weights.num_adapters, size, device=weights.device)
    place = 0
    for tensors in (weights.a, weights.b):
        for tensor in tensors.values():
            flat = tensor.detach().flatten(1).float()  # [adapters, numbers]
            signs = torch.randint(0, 2, flat.shape[1:], generator=generator, dtype=torch.int8)
            signed = flat * (2 * signs - 1).to(flat.device)
            after = -(place + signed.shape[1]) % size
            signed = torch.nn.functional.pad(signed, (place, after))
            summed += signed.reshape(len(signed), -1, size).sum(1)
            place = size - after if after else 0  # the next tensor goes on where this one ends
    return summed
