"""Reads descriptions with the frozen base: token states for the hypernetwork, layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from text_to_lora.encoders.base import pad_right
from text_to_lora.errors import SpecError
from text_to_lora.hypernet.config import TokenConfig
from text_to_lora.hypernet.tokens import TokenStates
from text_to_lora.lora.apply import is_adapted
from text_to_lora.lora.spec import LoraSpec

_TOGETHER = 8  # descriptions read at once; few, so that little is padding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ReadableBase(Protocol):
    """A base without adapters, as a reader of descriptions needs it."""

    @property
    def end_of_answer(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings of tokens, [..., hidden]."""
        ...

    def inputs(
        self, tokens: Tensor, mask: Tensor, modules: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], Tensor]:
        """What enters modules, each [texts, tokens, in], in the base's dtype.

        tokens, mask: [texts, tokens], padded on the right
        modules: paths below a layer, and its number; the path "" is the layer itself
        """
        ...


@final
class HookedBase:
    """A model of transformers as a reader of descriptions needs it; see ReadableBase.

    layers_path: of the list of layers
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers_path: str
    ) -> None:
        self._model, self._tokenizer, self._layers_path = model, tokenizer, layers_path

    @property
    def end_of_answer(self) -> int:
        """See ReadableBase."""
        token: int = self._tokenizer.eos_token_id
        return token

    @property
    def device(self) -> torch.device:
        """See ReadableBase."""
        return self._model.device

    def tokenize(self, text: str) -> list[int]:
        """See ReadableBase.tokenize."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def embed(self, tokens: Tensor) -> Tensor:
        """See ReadableBase.embed."""
        embeddings: Tensor = self._model.get_input_embeddings()(tokens)
        return embeddings

    def inputs(
        self, tokens: Tensor, mask: Tensor, modules: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], Tensor]:
        """See ReadableBase.inputs.

        Raises SpecError when the base is inside adapted().
        """
        layers = self._model.get_submodule(self._layers_path)
        assert isinstance(layers, nn.ModuleList)
        if is_adapted(layers):
            raise SpecError(
                "this model is inside adapted(), so its states would be those of an adapted base; "
                "leave that block before reading descriptions"
            )
        inputs: dict[tuple[str, int], Tensor] = {}

        def keep(
            key: tuple[str, int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            inputs[key] = args[0] if args else kwargs["hidden_states"]

        with ExitStack() as stack:
            for path, number in modules:
                hook = partial(keep, (path, number))
                module = layers[number].get_submodule(path)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            self._model.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
        return inputs


@final
class TokenReader:
    """Gives the base's states of descriptions.

    Every word stands on a line of its own, so that it has the tokens with which an answer would
    write it: " lantern" inside a sentence is another token than "lantern" at the start of a line.
    A description of more than `max_tokens` tokens loses some from its middle.

    spec: of the adapters; config: what is read
    """

    def __init__(self, base: ReadableBase, spec: LoraSpec, config: TokenConfig) -> None:
        self._base = base
        self._spec = spec
        self._config = config
        self._line_ids = frozenset(base.tokenize("\n"))

    @classmethod
    def of_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: LoraSpec,
        config: TokenConfig,
    ) -> TokenReader:
        """One that reads with a model of transformers."""
        return cls(HookedBase(model, tokenizer, spec.layers_path), spec, config)

    def __call__(self, texts: Sequence[str]) -> TokenStates:
        """Read descriptions, those of like length together.

        States are in the base's dtype and on its device.

        Raises SpecError when the base is inside adapted().
        """
        ids = [self._ids(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        parts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
        states = [self._read([ids[place] for place in part]) for part in parts]
        return TokenStates.join(states, [place for part in parts for place in part])

    @torch.no_grad()
    def _read(self, ids: Sequence[Sequence[int]]) -> TokenStates:
        tokens, mask = pad_right(ids, self._base.device)
        levels = [("", n) for n in range(0, self._spec.num_layers, self._config.layer_stride)]
        writers = {
            group.key: [(group.module, n) for n in group.layers]
            for group in self._spec.groups
            if group.module in self._config.direct
        }
        inputs = self._base.inputs(tokens, mask, [*levels, *chain.from_iterable(writers.values())])

        def stack(modules: Sequence[tuple[str, int]]) -> Tensor:
            return torch.stack([inputs[module] for module in modules], dim=1)

        words, following = self._words(tokens, mask)
        return TokenStates(
            hidden=stack(levels),
            mask=mask,
            words=words,
            following=following,
            inputs={k: functional.normalize(stack(m), dim=-1) for k, m in writers.items()},
        )

    def _ids(self, text: str) -> list[int]:
        ids = self._base.tokenize("\n".join(text.split()))
        excess = len(ids) - self._config.max_tokens
        if excess <= 0:
            return ids
        start = self._config.max_tokens // 3  # labels and the form of the answer tend to come last
        return ids[:start] + ids[start + excess :]

    def _words(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of tokens and of those after them, each of norm 1; a word's end is the EOS."""
        end_of_answer = self._base.end_of_answer
        line_ends = torch.tensor(sorted(self._line_ids), device=tokens.device)
        tokens = tokens.masked_fill(torch.isin(tokens, line_ends) | ~mask, end_of_answer)
        tokens = functional.pad(tokens, (0, 1), value=end_of_answer)
        words = functional.normalize(self._base.embed(tokens), dim=-1)
        return words[:, :-1], words[:, 1:]
