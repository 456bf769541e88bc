"""Layers that compute in fp32 at least, whatever the dtype in which their weights are kept.

They come without numbers, which a file or `draw_parameters` gives them. Drawing here as well would
cost an import of torch._dynamo on the meta device: half the time of a cold start (2.5 of 5 s on two
CPU cores, torch 2.13, 2026-11-24).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Output columns of one block of a product by bfloat16 weights on a CPU that has no such product.
# 4096 columns keep the fp32 block of 64 descriptions x 32 layers at 32 MiB.
_BLOCK = 4096


def wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32, or as it is when it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def has_fast_product(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies matrices of a dtype at least as fast as in fp32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16: 1 GFLOP/s beside 109 in fp32 (two cores of
    an AMD EPYC with AVX2, torch 2.13, 2026-11).
    """
    if device.type != "cpu" or dtype in (torch.float32, torch.float64):
        return True
    return dtype == torch.bfloat16 and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


class Drawn:
    """A module without numbers of its own; `draw` gives it those of the start of training."""

    def reset_parameters(self) -> None:
        """Leave the numbers to a file or to `draw`."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw all parameters that are the module's own; generator: None for torch's own."""
        raise NotImplementedError


@torch.no_grad()
def draw_parameters(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all parameters of a network by torch's default initialisation.

    Linear layers U(-1/sqrt(in), 1/sqrt(in)), embeddings and codes N(0, 1); LayerNorm starts at
    weight 1 and bias 0; a library's moments at mean 0 and deviation 1.
    """
    for module in network.modules():
        if isinstance(module, Drawn):
            module.draw(generator)


class _DrawnLinear(Drawn, nn.Linear):
    def draw(self, generator: torch.Generator | None) -> None:
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


class Linear(_DrawnLinear):
    """nn.Linear with products in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return functional.linear(input, wide(self.weight), wide(self.bias))


class LayerNorm(Drawn, nn.LayerNorm):
    """nn.LayerNorm in fp32."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Weight 1, bias 0."""
        self.weight.fill_(1.0)
        self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return functional.layer_norm(
            wide(input), self.normalized_shape, wide(self.weight), wide(self.bias), self.eps
        )


class Embedding(Drawn, nn.Embedding):
    """nn.Embedding without numbers of its own."""

    def draw(self, generator: torch.Generator | None) -> None:
        """N(0, 1)."""
        self.weight.normal_(generator=generator)


class HeadLinear(_DrawnLinear):
    """The last, very wide product; its result has the dtype of the weights, or `compute_dtype`.

    compute_dtype: of the product, where it is to be another than that of the weights; training sets
        bfloat16 beside weights in fp32, which then stay the ones that are updated

    Weights narrower than fp32 on a device that has no fast product for them are widened block by
    block, multiplied in fp32, and each block is rounded into the result, so that neither weights
    nor result exist in fp32 as a whole.
    """

    compute_dtype: torch.dtype | None = None

    def forward(self, input: Tensor, *, rows: int = 1, width: int | None = None) -> Tensor:
        """fp32 [..., in_features] to [..., rows · width].

        rows: equal parts of the output; width: columns taken from the start of each, None for all
        """
        weight = self._cut(self.weight, rows, width)
        bias = None if self.bias is None else self._cut(self.bias, rows, width)
        if self.compute_dtype is not None:
            weight = weight.to(self.compute_dtype)
            bias = None if bias is None else bias.to(self.compute_dtype)
        flat = input.reshape(-1, self.in_features)  # two dimensions take torch's fused addmm
        if has_fast_product(weight.dtype, weight.device):
            result = functional.linear(flat.to(weight.dtype), weight, bias)
        else:
            result = flat.new_empty(len(flat), len(weight), dtype=weight.dtype)
            for start in range(0, len(weight), _BLOCK):
                block = slice(start, start + _BLOCK)
                block_bias = None if bias is None else wide(bias[block])
                result[:, block] = functional.linear(flat, wide(weight[block]), block_bias)
        return result.view(*input.shape[:-1], len(weight))

    @staticmethod
    def _cut(parameter: Tensor, rows: int, width: int | None) -> Tensor:
        """The first `width` of each of `rows` parts; a view where nothing is cut."""
        return torch.unflatten(parameter, 0, (rows, -1))[:, :width].flatten(0, 1)
