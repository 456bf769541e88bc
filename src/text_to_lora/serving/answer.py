"""One answer in the making: its next token is chosen, its text read, its end found."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from text_to_lora.errors import T2LError
from text_to_lora.lora.weights import LoraWeights

Finish = Literal["stop", "length"]

UNFINISHED_CHARACTER: Final = "\ufffd"
"""What decoders write for bytes that are no whole UTF-8 character, or not yet."""


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen, and when it ends.

    max_tokens: most tokens of the answer
    temperature: 0 takes the most likely token; top_p: share of the probability that is drawn from
    seed: of the draws; None for another one each time
    stop: texts that end the answer and are not part of it
    num_logprobs: alternatives whose log probability is told with each token's own; None for none
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log probability, in nats, and those of the most likely ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What is new in an answer.

    finish: why the answer ended; None while it goes on
    num_tokens: of the answer so far; error: what ended it instead
    """

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    num_tokens: int = 0
    error: T2LError | None = None


@dataclass
class Answer:
    """An answer that waits for the model or is being written.

    prompt_ids: of the whole prompt; weights: one adapter, None for the base
    read: text of the answer's tokens; hidden: a start of a text that is shown only when it goes on
        otherwise (the marks that close an empty thought)
    streams: whether pieces are told as they come, and not at the end alone
    deliver: gets every piece; it is called on the engine's thread, and must return at once
    """

    prompt_ids: Sequence[int]
    sampling: Sampling
    read: Callable[[list[int]], str]
    deliver: Callable[[Piece], None]
    weights: LoraWeights | None = None
    hidden: str = ""
    streams: bool = False
    cancelled: bool = False
    ids: list[int] = field(default_factory=list)
    _shown: int = 0  # characters that were delivered
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _generator: torch.Generator | None = None

    def choose(self, logits: Tensor) -> int:
        """Draw the next token from logits [vocab], at a temperature above 0."""
        sampling = self.sampling
        if self._generator is None:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator(logits.device).manual_seed(seed)
        chances = torch.softmax(logits / sampling.temperature, dim=-1)
        if sampling.top_p < 1:
            ordered, places = chances.sort(descending=True)
            before = ordered.cumsum(0) - ordered
            chances = torch.zeros_like(chances)
            chances[places] = ordered * (before < sampling.top_p)
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def take(self, token: int, logits: Tensor, stop_tokens: frozenset[int]) -> bool:
        """Append a token and deliver what is new; tells whether the answer goes on.

        logits: that the token was chosen from, [vocab]
        """
        if token in stop_tokens:
            self._tell("stop")
            return False
        self.ids.append(token)
        if self.sampling.num_logprobs is not None:
            self._logprobs.append(_logprob(token, logits, self.sampling.num_logprobs))
        ended = len(self.ids) >= self.sampling.max_tokens
        if ended or self.streams or self.sampling.stop:
            return self._tell("length" if ended else None)
        return True

    def fail(self, error: T2LError) -> None:
        """End the answer with an error."""
        self.deliver(Piece(error=error, num_tokens=len(self.ids)))

    def _tell(self, finish: Finish | None) -> bool:
        text = self.read(self.ids)
        if ends := [place for stop in self.sampling.stop if (place := text.find(stop)) >= 0]:
            text, finish = text[: min(ends)], "stop"
        if finish is None:
            text = self._settled(text)
            if not self.streams or len(text) <= self._shown:
                return True
        logprobs, self._logprobs = tuple(self._logprobs), []
        self.deliver(Piece(text[self._shown :], logprobs, finish, len(self.ids)))
        self._shown = max(self._shown, len(text))
        return finish is None

    def _settled(self, text: str) -> str:
        """The start of a text that later tokens cannot change."""
        if self.hidden.startswith(text.strip()):
            return ""
        text = text.rstrip(UNFINISHED_CHARACTER)
        held = max(
            (
                count
                for stop in self.sampling.stop
                for count in range(1, len(stop))
                if text.endswith(stop[:count])
            ),
            default=0,
        )
        return text[: len(text) - held].rstrip()


def _logprob(token: int, logits: Tensor, count: int) -> TokenLogprob:
    values = torch.log_softmax(logits, dim=-1)
    top = values.topk(min(count, len(values)))
    alternatives = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return TokenLogprob(token, float(values[token]), tuple(alternatives))
