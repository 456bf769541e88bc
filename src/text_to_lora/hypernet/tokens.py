"""Token states of descriptions, and the parts of a hypernetwork that read them.

A sentence embedding says which kind of task is meant and forgets which words were said. Here every
slot asks the frozen base's own states of the description by cross-attention, and the modules that
write into the residual stream may store the words themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from text_to_lora.errors import ConfigError
from text_to_lora.hypernet.config import TokenConfig
from text_to_lora.hypernet.heads import Factors
from text_to_lora.hypernet.layers import LayerNorm, Linear
from text_to_lora.lora.spec import LoraSpec

_START_GATE: Final = 0.02  # of a unit vector a module; 0.3 wrecks the base before training starts


@dataclass(frozen=True)
class TokenStates:
    """What the frozen base makes of descriptions, token by token.

    hidden: states that enter the layers read, [texts, levels, tokens, hidden]
    mask: True on tokens, False on padding, [texts, tokens]
    words: input embedding of every token, of norm 1, [texts, tokens, hidden]
    following: the same of the token after it; the end of the answer after a word's last token
    inputs: per group key the inputs of the modules that store words, each of norm 1,
        [texts, slots, tokens, in]
    """

    hidden: Tensor
    mask: Tensor
    words: Tensor
    following: Tensor
    inputs: dict[str, Tensor]

    def select(self, texts: Sequence[int]) -> TokenStates:
        """The states of these texts in this order; a text may repeat."""
        index = torch.tensor(texts, device=self.mask.device)
        return self._combine([self], lambda tensors, dim: tensors[0].index_select(0, index))

    @classmethod
    def join(cls, parts: Sequence[TokenStates], places: Sequence[int]) -> TokenStates:
        """States of several batches as one, padded to the longest.

        places: where each text of the joined batches stands in the result
        """
        width = max(part.mask.shape[1] for part in parts)
        order = torch.tensor(places, device=parts[0].mask.device).argsort()

        def join_padded(tensors: Sequence[Tensor], dim: int) -> Tensor:
            padded = []
            for tensor in tensors:
                shape = list(tensor.shape)
                shape[dim] = width - shape[dim]
                padded.append(torch.cat([tensor, tensor.new_zeros(shape)], dim=dim))
            return torch.cat(padded).index_select(0, order)

        return cls._combine(parts, join_padded)

    @staticmethod
    def _combine(
        parts: Sequence[TokenStates], change: Callable[[Sequence[Tensor], int], Tensor]
    ) -> TokenStates:
        """Every field by itself; change: from a field of all parts and its dimension of tokens."""
        return TokenStates(
            hidden=change([part.hidden for part in parts], 2),
            mask=change([part.mask for part in parts], 1),
            words=change([part.words for part in parts], 1),
            following=change([part.following for part in parts], 1),
            inputs={k: change([part.inputs[k] for part in parts], 2) for k in parts[0].inputs},
        )


@final
class TokenAttention(nn.Module):
    """Cross-attention from the slots' codes to token states; starts as the identity.

    levels: place among the levels read that each slot asks [slots]
    """

    level_index: Tensor

    def __init__(self, config: TokenConfig, *, latent_size: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.heads = config.heads
        self.register_buffer("level_index", torch.tensor(levels, device="cpu"), persistent=False)
        self.query_norm = LayerNorm(latent_size)
        self.state_norm = LayerNorm(config.hidden_size)
        self.query = Linear(latent_size, config.attention_size)
        self.key = Linear(config.hidden_size, config.attention_size)
        self.value = Linear(config.hidden_size, config.attention_size)
        self.out = Linear(config.attention_size, latent_size)

    def forward(self, latent: Tensor, states: TokenStates) -> Tensor:
        """Add to the codes [tasks, slots, latent] what they find in the states."""
        tasks = len(latent)
        hidden = self.state_norm(states.hidden)  # [tasks, levels, tokens, hidden]
        levels = hidden.shape[1]
        counts = torch.bincount(self.level_index, minlength=levels).tolist()
        order = torch.argsort(self.level_index, stable=True).to(latent.device)
        per_level = max(counts)
        query = self.query(self.query_norm(latent)).index_select(1, order)
        padded = query.new_zeros(tasks, levels, per_level, query.shape[-1])
        for level, part in enumerate(torch.split(query, counts, dim=1)):
            padded[:, level, : part.shape[1]] = part
        mixed = nn.functional.scaled_dot_product_attention(
            self._split(padded),
            self._split(self.key(hidden)),
            self._split(self.value(hidden)),
            attn_mask=states.mask[:, None, None, None, :],  # [tasks, 1, 1, 1, tokens]
        )
        mixed = mixed.transpose(2, 3).flatten(-2)  # [tasks, levels, per_level, attention_size]
        flat = torch.cat([mixed[:, level, :count] for level, count in enumerate(counts)], dim=1)
        restored = torch.empty_like(flat).index_copy(1, order, flat)
        out: Tensor = latent + self.out(restored)
        return out

    def start(self) -> None:
        """Begin as the identity."""
        self.out.weight.data.zero_()
        self.out.bias.data.zero_()

    def _split(self, x: Tensor) -> Tensor:
        """[tasks, levels, n, attention_size] to [tasks, levels, heads, n, head]."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(2, 3)


@final
class WordMemory(nn.Module):
    """Lets every rank of a module that writes into the residual stream store a word it points at.

    B gains the embedding of the token or of the one after it, A gains the module's own input at
    that token, so that reading a token of the description can call up the next.
    """

    level_index: Tensor
    slot_index: Tensor

    def __init__(
        self, config: TokenConfig, spec: LoraSpec, *, latent_size: int, levels: Sequence[int]
    ) -> None:
        super().__init__()
        self.rank = rank = spec.rank
        self.key_size = config.key_size
        sizes = [len(group.layers) for group in spec.groups]
        places = torch.split(torch.arange(sum(sizes), device="cpu"), sizes)
        grouped = zip(spec.groups, places, strict=True)
        writing = [(group, place) for group, place in grouped if group.module in config.direct]
        self.groups = tuple(group for group, _ in writing)
        writers = {g.module: None for g in spec.groups if g.out_features == config.hidden_size}
        if not writing or any(group.module not in writers for group in self.groups):
            raise ConfigError(
                f"hypernet.tokens: direct is {list(config.direct)}; leave it empty, or choose among "
                f"the adapters' modules of {config.hidden_size} outputs: "
                f"{', '.join(writers) or 'there are none'}"
            )
        slots = torch.cat([place for _, place in writing])
        self.register_buffer("slot_index", slots, persistent=False)
        level = torch.tensor(levels, device="cpu")[slots]
        self.register_buffer("level_index", level, persistent=False)
        self.norm = LayerNorm(latent_size)
        self.state_norm = LayerNorm(config.hidden_size)
        self.query = Linear(latent_size, rank * config.key_size)
        self.key = Linear(config.hidden_size, config.key_size)
        self.gates = Linear(latent_size, rank * 3)  # of A, of B, and of the token after

    def forward(
        self, factors: tuple[Factors, Factors], latent: Tensor, states: TokenStates
    ) -> None:
        """Add words to the factors of the groups that store them, in place.

        latent: codes of all slots, [tasks, slots, latent]
        """
        latent = self.norm(latent.index_select(1, self.slot_index.to(latent.device)))
        query = self.query(latent).unflatten(-1, (self.rank, self.key_size))
        keys = self.key(self.state_norm(states.hidden))  # [tasks, levels, tokens, key]
        keys = keys.index_select(1, self.level_index.to(keys.device))  # [tasks, slots, tokens, key]
        scores = query @ keys.mT / math.sqrt(self.key_size)  # [tasks, slots, rank, tokens]
        pointed = scores.masked_fill(~states.mask[:, None, None], -torch.inf).softmax(-1)
        gate_a, gate_b, after = self.gates(latent).unflatten(-1, (3, self.rank)).unbind(2)
        after = after.sigmoid()[..., None]
        # All slots of a task in one product, since torch would copy the words once for every slot.
        chosen = torch.cat((pointed * (1 - after), pointed * after), -1) * gate_b[..., None]
        choices = torch.cat((states.words, states.following), 1).to(chosen.dtype)
        words = chosen.flatten(1, 2) @ choices  # [tasks, slots · rank, hidden]
        words = words.unflatten(1, chosen.shape[1:3])  # [tasks, slots, rank, hidden]
        a, b = factors
        sizes = [len(group.layers) for group in self.groups]
        for group, word, weight in zip(
            self.groups,
            words.split(sizes, dim=1),
            (pointed * gate_a[..., None]).split(sizes, dim=1),
            strict=True,
        ):
            inputs = states.inputs[group.key]
            a[group.key] = a[group.key] + (weight.to(inputs.dtype) @ inputs).to(a[group.key].dtype)
            b[group.key] = b[group.key] + word.mT.to(b[group.key].dtype)

    def start(self) -> None:
        """Begin near zero; half of the ranks with the word itself, half with the one after."""
        self.gates.weight.data.mul_(0.1)
        bias = torch.unflatten(self.gates.bias.data, 0, (3, self.rank))
        bias[:2].fill_(_START_GATE)
        bias[2].copy_(torch.linspace(-3, 3, self.rank))
