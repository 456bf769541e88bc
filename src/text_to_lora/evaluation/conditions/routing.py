"""Arrow routing: every token takes the library's adapters whose directions it lies in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self, final

import torch
from torch import Tensor, nn

from text_to_lora.errors import ConfigError
from text_to_lora.evaluation.conditions.condition import Condition, Sources
from text_to_lora.evaluation.conditions.given import NEEDS_LIBRARY
from text_to_lora.library.library import AdapterLibrary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PEFT 0.21: power iterations towards an expert's first right singular vector, and what keeps a
# norm from zero.
ITERATIONS = 15
SMALLEST_NORM = 1e-8


@final
class Arrow(Condition):
    """The base with a library of adapters as experts, routed token by token, layer by layer.

    experts: how many adapters of the library, from its first; None: all
    top_k: experts of a token; temperature: of the softmax over their similarities
    seed: of the vector that the power iteration starts from

    In each target module an expert's prototype is the first right singular vector of its ΔW; a
    token is given the `top_k` experts with the largest |prototype · token| and adds their ΔW x
    under a softmax of these. What PEFT's `create_arrow_model` computes, here as two products over
    all experts' stacked factors, so that hundreds of experts fit and nothing is written to disk.

    Raises ConfigError when there are fewer experts than `top_k`, or a number cannot be.
    Source: Ostapenko et al. (arXiv 2405.11157), as in PEFT 0.21.
    """

    kind = "arrow"
    title = "Arrow routing over the library"
    sources = ("library",)
    needs = NEEDS_LIBRARY

    def __init__(
        self,
        library: AdapterLibrary,
        *,
        experts: int | None = None,
        top_k: int = 3,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        available = len(library)
        count = available if experts is None else experts
        if not 1 <= top_k <= count <= available:
            raise ConfigError(
                f"arrow routes each token to {top_k} of {count} experts, and the library has "
                f"{available} adapters; give numbers with 1 <= top_k <= experts <= {available}"
            )
        if not temperature > 0:
            raise ConfigError(f"arrow's temperature is {temperature}; give a number above 0")
        self._library = library
        self._experts = library.select(library.names[:count])
        self._top_k = top_k
        self._temperature = temperature
        self._seed = seed

    @classmethod
    def make(cls, sources: Sources, *given: Any) -> list[Self]:
        """See Condition.make."""
        return [cls(*given, experts=sources.experts, seed=sources.seed)]

    @property
    def about(self) -> Mapping[str, Any]:
        """The experts and the numbers of the routing."""
        return {
            "library": self._library.fingerprint,
            "adapters": len(self._library),
            "experts": len(self._experts),
            "chosen": "the library's first",
            "top_k": self._top_k,
            "temperature": self._temperature,
            "seed": self._seed,
        }

    @contextmanager
    def on(self, base: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """The base with forward hooks that route; they are gone after the block.

        Raises SpecError when the library is for another base.
        """
        spec = self._experts.spec
        spec.check_base(base.config)
        with ExitStack() as stack:
            for group in spec.groups:
                a, b = self._experts.weights.a[group.key], self._experts.weights.b[group.key]
                for slot, layer in enumerate(group.layers):
                    module = base.get_submodule(spec.module_name(layer, group.module))
                    weight = module.get_parameter("weight")
                    plain = weight.is_floating_point() and weight.dtype.itemsize >= 2
                    target: dict[str, Any] = {
                        "device": weight.device,
                        "dtype": weight.dtype if plain else a.dtype,  # not of quantised weights
                    }
                    hook = _Router(
                        a[:, slot].to(**target),
                        b[:, slot].to(**target),
                        scaling=spec.scaling,
                        top_k=self._top_k,
                        temperature=self._temperature,
                        seed=self._seed,
                    )
                    stack.callback(module.register_forward_hook(hook).remove)
            yield base


class _Router:
    """Adds the routed experts' ΔW x to the output of one target module.

    a: [experts, rank, in]; b: [experts, out, rank]
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor,
        *,
        scaling: float,
        top_k: int,
        temperature: float,
        seed: int,
    ) -> None:
        self.prototypes = find_prototypes(a, b, seed=seed).to(a.dtype)
        self.a = a.flatten(0, 1)  # [experts · rank, in]
        self.b = b.transpose(1, 2).flatten(0, 1)  # [experts · rank, out]
        self.rank = a.shape[1]
        self.scaling = scaling
        self.top_k = top_k
        self.temperature = temperature

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        tokens = args[0].flatten(0, -2).to(self.a.dtype)  # [tokens, in]
        similarity = (tokens @ self.prototypes.T).abs()  # [tokens, experts]
        best, places = similarity.topk(self.top_k, dim=1)
        shares = torch.softmax(best / self.temperature, dim=1)
        share = torch.zeros_like(similarity).scatter_(1, places, shares)
        low = (tokens @ self.a.T).unflatten(1, (-1, self.rank)) * share[..., None]
        delta = self.scaling * (low.flatten(1) @ self.b)
        routed: Tensor = output + delta.to(output.dtype).view_as(output)
        return routed


@torch.no_grad()
def find_prototypes(a: Tensor, b: Tensor, *, seed: int) -> Tensor:
    """First right singular vector of each expert's B A, by power iteration, [experts, in].

    a: [experts, rank, in]; b: [experts, out, rank]
    All start from the same random vector; the sign is left as it comes, routing ignores it.

    Source: PEFT 0.21, ArrowLoraLinearLayer.top_right_singular_vec_from_BA.
    """
    a, b = a.float(), b.float()
    core = b.mT @ b  # [experts, rank, rank]
    generator = torch.Generator(device=a.device).manual_seed(seed)
    start = torch.randn(a.shape[2], generator=generator, device=a.device)
    vectors: Tensor = (start / (start.norm() + SMALLEST_NORM)).expand(len(a), -1)[..., None]
    for _ in range(ITERATIONS):
        vectors = a.mT @ (core @ (a @ vectors))
        vectors = vectors / (vectors.norm(dim=1, keepdim=True) + SMALLEST_NORM)
    return vectors[..., 0]
