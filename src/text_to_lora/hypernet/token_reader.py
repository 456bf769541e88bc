"""Reads descriptions with the frozen base: token states for the hypernetwork, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, final

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


@final
class TokenReader:
    """Gives the base's states of descriptions.

    Every word stands on a line of its own, so that it has the tokens with which an answer would
    write it: " lantern" inside a sentence is another token than "lantern" at the start of a line.
    A description of more than `max_tokens` tokens loses some from its middle.

    model: the base, without adapters; spec: of the adapters; config: what is read
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: LoraSpec,
        config: TokenConfig,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._spec = spec
        self._config = config
        self._line_ids = frozenset(tokenizer("\n", add_special_tokens=False).input_ids)

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
        layers = self._model.get_submodule(self._spec.layers_path)
        assert isinstance(layers, nn.ModuleList)
        if is_adapted(layers):
            raise SpecError(
                "this model is inside adapted(), so its states would be those of an adapted base; "
                "leave that block before reading descriptions"
            )
        tokens, mask = pad_right(ids, self._model.device)
        states: dict[tuple[str, int], Tensor] = {}

        def keep(
            key: tuple[str, int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            states[key] = args[0] if args else kwargs["hidden_states"]

        levels = range(0, self._spec.num_layers, self._config.layer_stride)
        writers = [group for group in self._spec.groups if group.module in self._config.direct]
        modules: dict[tuple[str, int], nn.Module] = {("", n): layers[n] for n in levels}
        for group in writers:
            for n in group.layers:
                modules[group.key, n] = layers[n].get_submodule(group.module)
        with ExitStack() as stack:
            for key, module in modules.items():
                hook = module.register_forward_pre_hook(partial(keep, key), with_kwargs=True)
                stack.callback(hook.remove)
            self._model.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False)
        words, following = self._words(tokens, mask)
        inputs = {g.key: torch.stack([states[g.key, n] for n in g.layers], 1) for g in writers}
        return TokenStates(
            hidden=torch.stack([states["", n] for n in levels], dim=1),
            mask=mask,
            words=words,
            following=following,
            inputs={key: functional.normalize(tensor, dim=-1) for key, tensor in inputs.items()},
        )

    def _ids(self, text: str) -> list[int]:
        lines = "\n".join(text.split())
        ids = list(self._tokenizer(lines, add_special_tokens=False, verbose=False).input_ids)
        excess = len(ids) - self._config.max_tokens
        if excess <= 0:
            return ids
        start = self._config.max_tokens // 3  # labels and the form of the answer tend to come last
        return ids[:start] + ids[start + excess :]

    def _words(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of tokens and of those after them, each of norm 1; a word's end is the EOS."""
        end_of_answer = self._tokenizer.eos_token_id
        line_ends = torch.tensor(sorted(self._line_ids), device=tokens.device)
        tokens = tokens.masked_fill(torch.isin(tokens, line_ends) | ~mask, end_of_answer)
        tokens = functional.pad(tokens, (0, 1), value=end_of_answer)
        words = functional.normalize(self._model.get_input_embeddings()(tokens), dim=-1)
        return words[:, :-1], words[:, 1:]
