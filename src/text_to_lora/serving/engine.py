"""The engine: one thread owns the model and answers requests with unlike adapters in one batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import torch

from text_to_lora.errors import BackendError, ConfigError, T2LError
from text_to_lora.inference.answers import TOKENS_PER_PASS
from text_to_lora.inference.decode import Decoder
from text_to_lora.lora.spec import LoraSpec
from text_to_lora.lora.weights import LoraWeights
from text_to_lora.serving.answer import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)


class QueueFullError(T2LError):
    """As many answers wait as the engine lets wait."""


class ClosedError(T2LError):
    """The engine finishes what runs and takes nothing new."""


class Watch(Protocol):
    """Hears what the engine does, on its thread; see `serving.metrics`."""

    def batch(self, rows: int) -> None:
        """Hear how many rows a step of the model has."""

    def waiting(self, answers: int) -> None:
        """Hear how many answers wait."""


class Engine:
    """Answers to prompts, each under its own adapter, on a thread that alone touches the model.

    stop_tokens: end an answer
    max_batch: most answers at once; max_wait: how long the first of a batch waits for others, in
        seconds; max_queue: most answers that wait
    fetch: gives the adapters for some answers' `key`s, all in one call, or what is wrong with one;
        it runs on the engine's thread
    """

    def __init__(
        self,
        model: PreTrainedModel,
        spec: LoraSpec,
        stop_tokens: Sequence[int],
        fetch: Callable[[Sequence[Any]], Sequence[LoraWeights | T2LError]],
        watch: Watch,
        *,
        max_batch: int = 32,
        max_wait: float = 0.01,
        max_queue: int = 256,
    ) -> None:
        self._fetch = fetch
        self._watch = watch
        self._stop_tokens = frozenset(stop_tokens)
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._decoder = Decoder(model, spec)
        self._rows: list[Answer] = []
        self._waiting: deque[tuple[Answer, Any]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = self._aborted = False
        self._thread = threading.Thread(target=self._run, name="t2l-engine", daemon=True)
        self._thread.start()

    def submit(self, answers: Sequence[Answer], key: Any = None) -> None:
        """Let answers wait for the model, all of them or none.

        key: of their adapter, for `fetch`; None for the base

        Raises QueueFullError when too many wait, ClosedError after `close`.
        """
        with self._changed:
            if self._closed:
                raise ClosedError("the server is shutting down; try again later")
            waiting = len(self._waiting)
            if waiting + len(answers) > self._max_queue:
                raise QueueFullError(
                    f"{waiting} answers wait already, and {self._max_queue} may; try again later"
                )
            self._waiting.extend((answer, key) for answer in answers)
            self._changed.notify()

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Run a function on the engine's thread, between two tokens, with the model free.

        Raises ClosedError after `close`.
        """
        result: Future[_T] = Future()

        def run() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(function())
            except Exception as error:
                result.set_exception(error)

        with self._changed:
            if self._closed:
                raise ClosedError("the server is shutting down; try again later")
            self._calls.append(run)
            self._changed.notify()
        return result

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    def close(self, timeout: float = 30.0) -> None:
        """Take nothing new, finish what was submitted, and end the thread.

        timeout: in seconds, after which unfinished answers end with an error
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        self._aborted = True
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._wait():
            try:
                self._work()
            except Exception as error:
                _log.exception("the engine failed; it goes on with the next requests")
                self._fail_all(BackendError(f"the model failed ({type(error).__name__}: {error})"))
        self._fail_all(ClosedError("the server was shut down before the answer was finished"))

    def _wait(self) -> bool:
        """Wait until there is work, and for the rest of a batch; False when the thread is to end."""
        with self._changed:
            while not (self._rows or self._waiting or self._calls):
                if self._closed:
                    return False
                self._changed.wait()
            deadline = time.monotonic() + self._max_wait
            while not self._rows and not self._calls and len(self._waiting) < self._max_batch:
                if (left := deadline - time.monotonic()) <= 0 or self._closed:
                    break
                self._changed.wait(left)
        return not self._aborted

    def _work(self) -> None:
        """One round: what others want on this thread, new rows, one token for every row."""
        while self._calls:
            self._decoder.release()
            self._calls.popleft()()
        self._remove([row for row, answer in enumerate(self._rows) if answer.cancelled])
        if new := self._take():
            self._start(new)
        if self._rows:
            self._watch.batch(len(self._rows))
            self._advance(0, self._decoder.step([answer.ids[-1] for answer in self._rows]))

    def _take(self) -> list[tuple[Answer, Any]]:
        """Answers that join the batch, whose prompts fit into one pass together."""
        taken: list[tuple[Answer, Any]] = []
        longest = 0
        with self._changed:
            while (
                self._waiting
                and len(self._rows) + len(taken) < self._max_batch
                and self._decoder.can_join
            ):
                longest = max(longest, len(self._waiting[0][0].prompt_ids))
                if taken and longest * (len(taken) + 1) > TOKENS_PER_PASS:
                    break
                answer, key = self._waiting.popleft()
                if not answer.cancelled:
                    taken.append((answer, key))
            self._watch.waiting(len(self._waiting))
        return taken

    def _start(self, new: Sequence[tuple[Answer, Any]]) -> None:
        """Fetch the adapters of answers, in one call, and read their prompts."""
        self._decoder.release()
        wanted = [(answer, key) for answer, key in new if key is not None]
        try:
            fetched = self._fetch([key for _, key in wanted]) if wanted else []
        except Exception as error:
            _log.exception("adapters could not be made; the engine goes on")
            failure = BackendError(f"no adapter was made ({type(error).__name__}: {error})")
            fetched = [failure] * len(wanted)
        failed = set()
        for (answer, _), result in zip(wanted, fetched, strict=True):
            if isinstance(result, T2LError):
                answer.fail(result)
                failed.add(id(answer))
            else:
                answer.weights = result
        ready = [answer for answer, _ in new if id(answer) not in failed]
        if ready:
            first = len(self._rows)
            self._rows += ready
            logits = self._decoder.add(
                [answer.prompt_ids for answer in ready], [answer.weights for answer in ready]
            )
            self._advance(first, logits)

    def _advance(self, first: int, logits: torch.Tensor) -> None:
        """Give rows their next tokens, and take out those that end; logits: [rows, vocab]."""
        highest, likeliest = (best.tolist() for best in logits.max(dim=-1))
        ended = []
        for place, answer in enumerate(self._rows[first:]):
            if not isfinite(highest[place]):
                answer.fail(
                    ConfigError("the adapter takes the base's numbers out of range; lower strength")
                )
                ended.append(first + place)
                continue
            row_logits = logits[place]
            greedy = answer.sampling.temperature == 0
            token = likeliest[place] if greedy else answer.choose(row_logits)
            if not answer.take(token, row_logits, self._stop_tokens):
                ended.append(first + place)
        self._remove(ended)

    def _remove(self, rows: Sequence[int]) -> None:
        if rows:
            self._rows = [self._rows[row] for row in self._decoder.remove(rows)]

    def _fail_all(self, error: T2LError) -> None:
        """End what runs with an error; after `close`, also what waits."""
        for answer in self._rows:
            answer.fail(error)
        self._decoder.remove(range(len(self._decoder)))
        self._rows = []
        if self._aborted or self._closed:
            for answer, _ in self._waiting:
                answer.fail(error)
            self._waiting.clear()
