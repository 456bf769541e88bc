"""LoraWeights: one adapter, or a batch of them, stacked by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from text_to_lora.errors import SpecError
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.tensors import is_finite


class LoraWeights:
    """Factors of one or many adapters of one spec; ΔW = spec.scaling · B A.

    a: per group key A, [adapters, slots, rank, in]
    b: per group key B, [adapters, slots, out, rank]
    Slots are in the order of Group.layers. Tensors may carry gradients; nothing is copied.

    Raises SpecError when groups, shapes, dtypes or devices do not fit the spec and each other.
    """

    def __init__(self, spec: LoraSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        keys = [group.key for group in spec.groups]
        for side, tensors in (("A", a), ("B", b)):
            if sorted(tensors) != sorted(keys):
                raise SpecError(f"{side} has groups {sorted(tensors)}; the spec has {sorted(keys)}")
        self.spec = spec
        self.a = {key: a[key] for key in keys}
        self.b = {key: b[key] for key in keys}
        first = self.a[keys[0]]
        adapters = first.shape[0] if first.ndim else 0
        if adapters < 1:
            raise SpecError(f"A of {keys[0]!r} is {tuple(first.shape)}; one adapter or more needed")
        for group in spec.groups:
            slots = (adapters, len(group.layers))
            for side, tensor, shape in (
                ("A", self.a[group.key], (*slots, spec.rank, group.in_features)),
                ("B", self.b[group.key], (*slots, group.out_features, spec.rank)),
            ):
                if tuple(tensor.shape) != shape:
                    raise SpecError(
                        f"{side} of {group.key!r} is {tuple(tensor.shape)}; {shape} is needed"
                    )
                if tensor.dtype != first.dtype or not tensor.is_floating_point():
                    raise SpecError(
                        f"{side} of {group.key!r} is {tensor.dtype}; one floating dtype is needed"
                    )
                if tensor.device != first.device:
                    raise SpecError(
                        f"{side} of {group.key!r} is on {tensor.device}, others on {first.device}"
                    )

    @property
    def num_adapters(self) -> int:
        """Adapters in this batch."""
        return self._first.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that all factors share."""
        return self._first.dtype

    @property
    def device(self) -> torch.device:
        """The device that all factors share."""
        return self._first.device

    @property
    def num_bytes(self) -> int:
        """Bytes of all factors."""
        return sum(t.numel() * t.element_size() for t in (*self.a.values(), *self.b.values()))

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows into any factor."""
        return any(t.requires_grad for t in (*self.a.values(), *self.b.values()))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Adapters whose factors are `change` of every factor of these."""
        a, b = ({k: change(t) for k, t in side.items()} for side in (self.a, self.b))
        return type(self)(self.spec, a, b)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The same adapters on another device or in another dtype."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def detach(self) -> Self:
        """The same adapters without gradient."""
        return self.map(Tensor.detach)

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """A batch of these adapters in this order; an index may repeat.

        Raises SpecError for an index that is not there.
        """
        index = check_indices(indices, self.num_adapters).to(self.device)
        return self.map(lambda tensor: tensor.index_select(0, index))

    def narrow(self, start: int, length: int) -> Self:
        """A batch of neighbouring adapters; views, no copies."""
        return self.map(lambda tensor: tensor.narrow(0, start, length))

    def unbind(self) -> list[Self]:
        """Each adapter as a batch of one; views, no copies."""
        return [self.narrow(place, 1) for place in range(self.num_adapters)]

    @staticmethod
    def stack(batches: Sequence[LoraWeights]) -> LoraWeights:
        """One batch of the adapters of several batches, in order.

        Raises SpecError when there is none or their specs differ.
        """
        if not batches:
            raise SpecError("nothing to stack; give at least one LoraWeights")
        spec = batches[0].spec
        for index, weights in enumerate(batches):
            if weights.spec != spec:
                raise SpecError(f"adapter {index} has another spec than adapter 0; use equal specs")
        a = {key: torch.cat([weights.a[key] for weights in batches]) for key in batches[0].a}
        b = {key: torch.cat([weights.b[key] for weights in batches]) for key in batches[0].b}
        return LoraWeights(spec, a, b)

    def scale(self, strength: float | Tensor) -> Self:
        """The same adapters with ΔW times `strength`: one number, or one for each [adapters]."""
        factor = torch.as_tensor(strength, dtype=self.dtype, device=self.device)
        if factor.ndim > 1 or (factor.ndim == 1 and len(factor) != self.num_adapters):
            raise SpecError(
                f"strength has shape {tuple(factor.shape)}; one number, or {self.num_adapters}"
            )
        factor = factor.reshape(-1, 1, 1, 1)
        return type(self)(self.spec, self.a, {key: b * factor for key, b in self.b.items()})

    def blend(self, coefficients: Tensor) -> Self:
        """Linear combinations of these adapters, exact in ΔW.

        coefficients: [new, adapters]; new adapter i is Σ_j coefficients[i, j] · ΔW_j
        The factors are concatenated, so the rank is `adapters` times as high; the scaling stays.
        `refactor(rank)` brings it back to a lower rank and says what that costs.

        Raises SpecError when the coefficients do not fit.
        """
        adapters = self.num_adapters
        if coefficients.ndim != 2 or coefficients.shape[1] != adapters or not len(coefficients):
            raise SpecError(
                f"coefficients are {tuple(coefficients.shape)}; [new, {adapters}] is needed"
            )
        new = coefficients.shape[0]
        factors = coefficients.to(device=self.device, dtype=self.dtype)[:, :, None, None, None]
        a, b = {}, {}
        for key in self.a:
            # A [adapters, slots, rank, in] -> [new, slots, adapters · rank, in]
            joined = self.a[key].transpose(0, 1).flatten(1, 2)
            a[key] = joined.expand(new, *joined.shape)
            weighted = factors * self.b[key]  # [new, adapters, slots, out, rank]
            b[key] = weighted.permute(0, 2, 3, 1, 4).flatten(3, 4)
        return type(self)(self.spec.with_rank(adapters * self.spec.rank), a, b)

    def refactor(self, rank: int) -> tuple[Self, Tensor]:
        """The nearest adapters of this rank in the Frobenius norm of ΔW, and what they lose.

        Truncated SVD slot by slot, by way of QR, so that ΔW is never formed; singular values are
        shared evenly between A and B; a higher rank is filled with zeros.
        Returns the adapters and their relative error |ΔW - ΔW'| / |ΔW| over all slots, [adapters].

        Source: Eckart and Young (1936).
        """
        spec = self.spec.with_rank(rank)
        a, b = {}, {}
        lost = torch.zeros(self.num_adapters, dtype=torch.float64, device=self.device)
        whole = torch.zeros_like(lost)
        for key in self.a:
            left, left_core = torch.linalg.qr(self.b[key].double())  # [.., out, k], [.., k, rank]
            right, right_core = torch.linalg.qr(self.a[key].double().mT)
            u, values, vh = torch.linalg.svd(left_core @ right_core.mT, full_matrices=False)
            energy = values.square()
            whole += energy.sum(dim=(1, 2))
            lost += energy[..., rank:].sum(dim=(1, 2))
            roots = values[..., :rank].sqrt()
            missing = rank - roots.shape[-1]
            new_b = (left @ u[..., :rank]) * roots[..., None, :]
            new_a = roots[..., :, None] * (vh[..., :rank, :] @ right.mT)
            if missing > 0:
                new_b = torch.nn.functional.pad(new_b, (0, missing))
                new_a = torch.nn.functional.pad(new_a, (0, 0, 0, missing))
            a[key], b[key] = new_a.to(self.dtype), new_b.to(self.dtype)
        error = (lost / whole.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
        return type(self)(spec, a, b), error

    def delta(self, key: str) -> Tensor:
        """ΔW of every slot of a group, scaling included, [adapters, slots, out, in]."""
        self.spec.group(key)
        return self.spec.scaling * (self.b[key] @ self.a[key])

    def check_finite(self) -> None:
        """Raise SpecError naming the first group and layer that holds a NaN or an infinity."""
        for group in self.spec.groups:
            for side, tensor in (("A", self.a[group.key]), ("B", self.b[group.key])):
                if not is_finite(tensor):
                    finite = tensor.isfinite().flatten(2).all(dim=2)  # [adapters, slots]
                    adapter, slot = (~finite).nonzero()[0].tolist()
                    raise SpecError(
                        f"{side} of {group.module!r} in layer {group.layers[slot]} of adapter "
                        f"{adapter} holds NaN or infinity; make the adapter again"
                    )

    @property
    def _first(self) -> Tensor:
        return self.a[self.spec.groups[0].key]


def check_indices(indices: Sequence[int] | Tensor, num_adapters: int) -> Tensor:
    """Adapter indices as a CPU tensor [rows].

    Raises SpecError when they are not whole numbers from 0 to num_adapters - 1, or there is none.
    """
    index = torch.as_tensor(indices, device="cpu")
    if index.ndim != 1 or not len(index) or index.is_floating_point() or index.is_complex():
        raise SpecError(f"rows are {indices!r}; a list of adapter numbers is needed")
    for row, adapter in enumerate(index.tolist()):
        if not 0 <= adapter < num_adapters:
            raise SpecError(
                f"row {row} uses adapter {adapter}; adapters are 0 to {num_adapters - 1}"
            )
    return index.long()
