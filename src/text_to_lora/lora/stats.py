"""Norms of adapters and the angles between them, without forming ΔW."""

from __future__ import annotations

import torch
from torch import Tensor

from text_to_lora.lora.weights import LoraWeights


def delta_norms(weights: LoraWeights) -> dict[str, Tensor]:
    """Frobenius norm of every slot's ΔW, scaling included, per group [adapters, slots]."""
    norms = {}
    for key in weights.a:
        a, b = weights.a[key].double(), weights.b[key].double()
        squares = ((b.mT @ b) * (a @ a.mT)).sum(dim=(2, 3))  # |BA|² = <BᵀB, AAᵀ>
        norms[key] = weights.spec.scaling * squares.clamp_min(0).sqrt()
    return norms


def delta_errors(weights: LoraWeights, wanted: LoraWeights) -> Tensor:
    """Relative error |ΔW - ΔW'| / |ΔW'| over all slots of each adapter, [adapters].

    wanted: as many adapters of the same spec; the error is infinite where only they are zero
    """
    spec = wanted.spec
    difference = LoraWeights(  # B A - B' A' as one product of twice the rank
        spec.with_rank(2 * spec.rank),
        {key: torch.cat([weights.a[key], wanted.a[key]], dim=2) for key in wanted.a},
        {key: torch.cat([weights.b[key], -wanted.b[key]], dim=3) for key in wanted.b},
    )
    lost, whole = (
        torch.stack([norm.square().sum(1) for norm in delta_norms(each).values()]).sum(0)
        for each in (difference, wanted)
    )
    return torch.where(lost > 0, lost / whole, 0.0).sqrt()


def delta_cosines(weights: LoraWeights) -> Tensor:
    """Cosine between the whole ΔW of each pair of adapters, [adapters, adapters].

    An adapter of zeros has cosine 0 with every other.
    """
    adapters = weights.num_adapters
    products = torch.zeros(adapters, adapters, dtype=torch.float64, device=weights.device)
    for key in weights.a:
        for a, b in zip(
            weights.a[key].double().unbind(1), weights.b[key].double().unbind(1), strict=True
        ):
            a_products = torch.einsum("iru,jsu->ijrs", a, a)
            b_products = torch.einsum("iur,jus->ijrs", b, b)
            products += (a_products * b_products).sum(dim=(2, 3))
    lengths = products.diagonal().clamp_min(0).sqrt()
    scale = torch.outer(lengths, lengths)
    return torch.where(scale > 0, products / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)
