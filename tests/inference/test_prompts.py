"""Prompts that are read together, or after what their adapter knows, get the logits of each alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from text_to_lora.inference.decode import Decoder
from text_to_lora.inference.packing import takes_packed_rows
from text_to_lora.lora import LoraSpec, LoraWeights
from text_to_lora.lora.apply import adapted
from tiny_lora import Kit, family, kit, llama, llama_spec

__all__ = ["family", "kit", "llama", "llama_spec"]

SYSTEM = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3]
USERS = [[10, 11, 12, 13], [20], [30, 31], [40, 41, 42, 43, 44, 45]]
PROMPTS = [SYSTEM + user for user in USERS]
OTHERS = [SYSTEM + user for user in ([13], [10, 14, 15], [37, 38, 39], [40, 41])]

Adapters = Sequence[LoraWeights | None]


class Counter:
    """Tokens that a model is asked to compute."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tokens = 0
        embeddings: Any = model.get_input_embeddings()
        self._handle = embeddings.register_forward_hook(self._note)

    def _note(self, module: Any, args: tuple[Tensor], output: Tensor) -> None:
        self.tokens += args[0].numel()

    def read(self) -> int:
        tokens, self.tokens = self.tokens, 0
        return tokens

    def close(self) -> None:
        self._handle.remove()


@pytest.fixture
def counter(llama: PreTrainedModel) -> Iterator[Counter]:
    assert takes_packed_rows(llama, 1)  # tries it out, which is not to count
    counter = Counter(llama)
    yield counter
    counter.close()


@pytest.fixture
def adapters(llama_spec: LoraSpec, kit: type[Kit]) -> list[LoraWeights | None]:
    one, two, three = kit.weights(llama_spec, 3).unbind()
    return [one, two, None, three]


def alone(model: PreTrainedModel, ids: Sequence[int], adapter: LoraWeights | None) -> Tensor:
    """Logits after the last token, without a cache, [vocab]."""
    tokens = torch.tensor([list(ids)])
    with torch.no_grad():
        if adapter is None:
            return model(tokens).logits[0, -1]
        with adapted(model, adapter):
            return model(tokens).logits[0, -1]


def check(
    model: PreTrainedModel, decoder: Decoder, prompts: Sequence[list[int]], adapters: Adapters
) -> None:
    """Read prompts as the only rows, go on with two tokens, and take the rows out."""
    rows = [list(prompt) for prompt in prompts]
    logits = decoder.add(rows, adapters)
    for token in (7, 8, None):
        decoder.release()
        wanted = [alone(model, *pair) for pair in zip(rows, adapters, strict=True)]
        torch.testing.assert_close(logits, torch.stack(wanted), rtol=1e-4, atol=1e-4)
        if token is not None:
            rows = [[*row, token] for row in rows]
            logits = decoder.step([token] * len(rows))
    decoder.remove(range(len(rows)))


def test_a_prompt_starts_after_what_its_adapter_has_read(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters, counter: Counter
) -> None:
    decoder = Decoder(llama, llama_spec)
    decoder.add(PROMPTS, adapters)
    assert counter.read() == sum(map(len, PROMPTS))
    decoder.remove(range(4))
    decoder.add(OTHERS, adapters)  # two of them begin with a token of the user as well
    assert counter.read() == 4 * 3
    decoder.remove(range(4))
    check(llama, decoder, OTHERS, adapters)
    check(llama, decoder, PROMPTS, adapters)
    check(llama, decoder, PROMPTS, adapters)
    check(llama, decoder, [*OTHERS[:1], [50, 51]], [*adapters[:1], adapters[3]])


def test_rows_of_which_one_adapter_knows_the_beginning_are_read_together(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters, counter: Counter
) -> None:
    decoder = Decoder(llama, llama_spec)
    check(llama, decoder, PROMPTS[:1], adapters[:1])
    counter.read()
    together = [SYSTEM * 2 + [9], [5] * 20]
    decoder.add(together, adapters[:2])  # padded: 20 tokens of each
    assert counter.read() == 2 * 20
    decoder.remove(range(2))
    check(llama, decoder, [SYSTEM * 2 + [8], [6] * 20], adapters[:2])


def test_rows_of_one_adapter_compute_their_beginning_once(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters, counter: Counter
) -> None:
    for adapter in (adapters[0], None):
        decoder = Decoder(llama, llama_spec)
        counter.read()
        decoder.add(PROMPTS, [adapter] * 4)
        assert counter.read() == len(SYSTEM) + sum(map(len, USERS))
        decoder.remove(range(4))
        check(llama, Decoder(llama, llama_spec), PROMPTS, [adapter] * 4)
    mixed = [adapters[1], adapters[0], adapters[1], adapters[0]]
    check(llama, Decoder(llama, llama_spec), PROMPTS, mixed)


def test_every_family_reads_on_after_what_is_known(family: str, kit: type[Kit]) -> None:
    config = kit.config(family)
    model = kit.model(config)
    spec = LoraSpec.from_config(config, targets="all-linear", rank=2)
    weights = kit.weights(spec, 2).unbind()
    decoder = Decoder(model, spec)
    adapters = [weights[0], None, weights[1], weights[0]]
    decoder.add(PROMPTS, adapters)
    decoder.remove(range(4))
    check(model, decoder, OTHERS, adapters)


def test_an_adapter_takes_what_is_known_with_it(
    llama: PreTrainedModel, llama_spec: LoraSpec, kit: type[Kit]
) -> None:
    decoder = Decoder(llama, llama_spec)
    adapter = kit.weights(llama_spec)
    decoder.add(PROMPTS[:1], [adapter])
    decoder.remove([0])
    stored = decoder._reader._beginnings._of
    assert len(stored) == 1
    del adapter
    gc.collect()
    assert len(stored) == 0


def test_infinite_numbers_of_a_row_stay_in_it(
    llama: PreTrainedModel, llama_spec: LoraSpec, adapters: Adapters, kit: type[Kit]
) -> None:
    wild = kit.weights(llama_spec).scale(3e38)
    wild.check_finite()
    for first, other in ((PROMPTS[3], PROMPTS[1]), (PROMPTS[1], PROMPTS[3])):
        decoder = Decoder(llama, llama_spec)
        for _ in range(2):
            logits = decoder.add([first, other], [wild, adapters[1]])
            decoder.release()
            assert not logits[0].isfinite().all()
            wanted = alone(llama, other, adapters[1])
            torch.testing.assert_close(logits[1], wanted, rtol=1e-4, atol=1e-4)
            decoder.remove([0, 1])
