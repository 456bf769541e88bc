"""What /metrics shows, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts of one server.

    adapters: gives how many adapters are stored
    """

    def __init__(self, adapters: Callable[[], int]) -> None:
        registry = CollectorRegistry()
        to: Any = {"registry": registry}
        self._requests = Counter("t2l_requests", "Requests.", ("route", "status"), **to)
        self._latency = Histogram(
            "t2l_request_seconds",
            "Time of a request until its last byte.",
            ("route",),
            buckets=_SECONDS,
            **to,
        )
        self.first_token = Histogram(
            "t2l_first_token_seconds",
            "Time from a request to the first piece of its answer.",
            buckets=_SECONDS,
            **to,
        )
        self._tokens = Counter("t2l_tokens", "Tokens.", ("kind",), **to)
        self.adapter_uses = Counter(
            "t2l_adapter_uses",
            "Uses of an adapter, by where it came from: memory, store or generated.",
            ("origin",),
            **to,
        )
        self.batch = Histogram("t2l_batch_rows", "Rows of a step.", buckets=_ROWS, **to).observe
        self.waiting = Gauge("t2l_waiting_answers", "Answers that wait.", **to).set
        Gauge("t2l_adapters", "Adapters that are stored.", **to).set_function(adapters)
        self.render = partial(generate_latest, registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def tokens(self, prompt: int, completion: int) -> dict[str, int]:
        """Count the tokens of a request, and give them as its answer shows them."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)
        total = prompt + completion
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
