"""From the name of a model to an adapter: a sentence, an id, an alias or a blend of them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from text_to_lora.errors import ConfigError, T2LError, shorten
from text_to_lora.generate import TextToLora
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.serving.store import AdapterStore, is_id, make_id

SENTENCE_PREFIX: Final = "t2l:"
BLEND_PREFIX: Final = "blend:"
MAX_DESCRIPTION: Final = 2000  # characters
MAX_STRENGTH: Final = 1000.0
_MAX_BLENDED: Final = 8  # adapters, whose ranks add up
_MAX_TOGETHER: Final = 64  # descriptions in one pass of the hypernetwork


class UnknownModelError(T2LError, ValueError):
    """No adapter has this name."""


@dataclass(frozen=True)
class AdapterRef:
    """An adapter that a request asks for.

    id: of the adapter; description: that it is generated from where it is not stored, with
        `strength`; None where it has to be there
    factor: of its ΔW in this request; min_similarity: lowest cosine with the nearest training
        description
    parts: ids and shares of a blend, which is not stored
    """

    id: str
    description: str | None = None
    strength: float = 1.0
    factor: float = 1.0
    min_similarity: float | None = None
    parts: tuple[tuple[str, float], ...] = ()


class AdapterPool:
    """Finds, generates and remembers adapters; all but `resolve` belongs to the model's thread.

    in_memory: adapters that are remembered; note: hears where each came from: memory, store or
        generated
    """

    def __init__(
        self,
        t2l: TextToLora,
        store: AdapterStore,
        *,
        in_memory: int = 64,
        note: Callable[[str], None] = lambda origin: None,
    ) -> None:
        self.store = store
        self._t2l = t2l
        self._in_memory = in_memory
        self._note = note
        # Read here, so that the encoder is loaded before the first request.
        self._makers = {"encoder": t2l.encoder.config.fingerprint, "hypernet": t2l.fingerprint}
        self._loaded: OrderedDict[tuple[str, float], LoraWeights] = OrderedDict()

    def sentence(self, description: str, strength: float = 1.0) -> AdapterRef:
        """The adapter of a sentence.

        Raises ConfigError when the sentence is empty or too long, or the strength cannot be.
        """
        text = description.strip()
        if not text:
            raise ConfigError("the description is empty; say in a sentence what the task is")
        if len(text) > MAX_DESCRIPTION:
            raise ConfigError(
                f"the description has {len(text)} characters; {MAX_DESCRIPTION} are allowed"
            )
        check_strength(strength)
        facts = self._makers | {"description": text, "strength": float(strength)}
        return AdapterRef(make_id(facts), text, strength)

    def resolve(self, name: str) -> AdapterRef:
        """The adapter that a model name means.

        Raises UnknownModelError when there is none, ConfigError when a sentence or blend cannot be.
        """
        if name.startswith(SENTENCE_PREFIX):
            return self.sentence(name.removeprefix(SENTENCE_PREFIX))
        if name.startswith(BLEND_PREFIX):
            return self._blend(name.removeprefix(BLEND_PREFIX))
        return AdapterRef(self.stored_id(name))

    def stored_id(self, name: str) -> str:
        """The id of the stored adapter that an id or alias means.

        Raises UnknownModelError when there is none.
        """
        adapter_id = name if is_id(name) else self.store.find_alias(name)
        if adapter_id is None or adapter_id not in self.store:
            raise UnknownModelError(
                f"the model {shorten(name)} does not exist; name the base, "
                "'t2l:A sentence that says the task', or the id or alias of an adapter"
            )
        return adapter_id

    def fetch(self, refs: Sequence[AdapterRef]) -> list[LoraWeights | T2LError]:
        """Adapters, of which those that are nowhere are generated in one pass and stored.

        Gives for each reference its adapter, or the error that says why there is none.
        """
        results: dict[AdapterRef, LoraWeights | T2LError] = {}
        missing: dict[str, AdapterRef] = {}
        # What is stored is read first: it may be removed to make room for what is generated.
        for ref in refs:
            try:
                self._check_similarity(ref)
                if ref.description is None or ref.id in self.store or (ref.id, 1.0) in self._loaded:
                    results[ref], origin = self._load(ref)
                    self._note(origin)
                else:
                    missing[ref.id] = ref
            except T2LError as error:
                results[ref] = error
        new_adapters = self._generate([*missing.values()])
        return [
            results[ref] if ref in results else self._hand_out(new_adapters[ref.id], ref.factor)
            for ref in refs
        ]

    def _hand_out(self, generated: LoraWeights | T2LError, factor: float) -> LoraWeights | T2LError:
        """A new adapter with ΔW times a factor, or the error that says why there is none."""
        if isinstance(generated, T2LError):
            return generated
        self._note("generated")
        return generated if factor == 1.0 else generated.scale(factor)

    def _load(self, ref: AdapterRef) -> tuple[LoraWeights, str]:
        """An adapter from memory or from the store, and which of them."""
        key = ref.id, ref.factor
        if key in self._loaded:
            self._loaded.move_to_end(key)
            if not ref.parts:
                self.store.path(ref.id)
            return self._loaded[key], "memory"
        if ref.factor != 1.0:
            weights, origin = self._load(AdapterRef(ref.id, parts=ref.parts))
            weights = weights.scale(ref.factor)
        elif ref.parts:
            loaded = [self._load(AdapterRef(part))[0] for part, _ in ref.parts]
            shares = torch.tensor([[share for _, share in ref.parts]])
            weights, origin = LoraWeights.stack(loaded).blend(shares), "store"
        elif ref.id in self.store:
            weights, origin = self.store.load(ref.id, self._t2l.spec), "store"
        else:
            raise UnknownModelError(f"the adapter {ref.id} was removed; make it again")
        self._remember(key, weights)
        return weights, origin

    def _remember(self, key: tuple[str, float], weights: LoraWeights) -> None:
        self._loaded[key] = weights
        while len(self._loaded) > self._in_memory:
            self._loaded.popitem(last=False)

    def forget(self, adapter_id: str) -> None:
        """Take an adapter out of memory, since it was deleted."""
        for key in [key for key in self._loaded if key[0] == adapter_id]:
            del self._loaded[key]

    def _generate(self, refs: Sequence[AdapterRef]) -> dict[str, LoraWeights | T2LError]:
        """Generate and store adapters; gives each as it was stored, or what is wrong, by id."""
        new_adapters: dict[str, LoraWeights | T2LError] = {}
        for start in range(0, len(refs), _MAX_TOGETHER):
            part = refs[start : start + _MAX_TOGETHER]
            try:
                adapters = self._t2l.generate([str(ref.description) for ref in part])
            except T2LError as error:
                if len(part) == 1:
                    new_adapters[part[0].id] = error
                else:  # find out which of them it is
                    for ref in part:
                        new_adapters |= self._generate([ref])
                continue
            for ref, adapter in zip(part, adapters.unbind(), strict=True):
                try:
                    self.store.add(ref.id, adapter.scale(ref.strength))
                    weights = self.store.load(ref.id, self._t2l.spec)
                    self._remember((ref.id, 1.0), weights)
                    new_adapters[ref.id] = weights
                except T2LError as error:
                    new_adapters[ref.id] = error
        return new_adapters

    def _check_similarity(self, ref: AdapterRef) -> None:
        """Raise ConfigError when a description is too far from those of the training."""
        if ref.min_similarity is None:
            return
        nearest = None
        if ref.id in self.store:
            nearest = self.store.provenance(ref.id).get("nearest_description")
        elif ref.description is not None:
            neighbour = self._t2l.nearest([ref.description])[0]
            nearest = neighbour and {"text": neighbour.text, "cosine": neighbour.cosine}
        if nearest is None:
            raise ConfigError(
                "nothing is known of how near this adapter is to the training; leave "
                "min_similarity out"
            )
        if nearest["cosine"] < ref.min_similarity:
            raise ConfigError(
                f"the nearest training description has cosine {nearest['cosine']:.2f}, below "
                f"{ref.min_similarity:g}: {shorten(nearest['text'])}; say the task in other words, "
                "or lower min_similarity"
            )

    def _blend(self, text: str) -> AdapterRef:
        parts = []
        for entry in text.split(","):
            name, _, share = entry.strip().partition("=")
            try:
                number = float(share)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise ConfigError(
                    f"blend part {shorten(entry)} needs a share; write blend:ID=0.7,ID=0.3"
                )
            parts.append((self.stored_id(name.strip()), number))
        if len(parts) > _MAX_BLENDED:
            raise ConfigError(f"{len(parts)} adapters in one blend; {_MAX_BLENDED} are allowed")
        return AdapterRef(make_id({"blend": parts}), parts=tuple(parts))


def check_strength(strength: float) -> None:
    """Raise ConfigError when an adapter cannot have this strength."""
    if not (math.isfinite(strength) and 0 < abs(strength) < MAX_STRENGTH):
        raise ConfigError(f"strength is {strength}; a number other than 0 is needed, 1 is usual")
